"""The whole tuple spelled out in numbers and names, as a config writes them: any weighted likelihood of the table."""

from gempi_jax.em import (
    Anchor,
    Constraint,
    Dual,
    Fixed,
    GempiSpec,
    Given,
    Identity,
    Lagrangian,
    Level,
    LineSearch,
    Penalty,
    Reduction,
    Scope,
    Score,
    Solved,
    Tilted,
    TokenDivergence,
    TopK,
    Transform,
    Unconstrained,
    Weighting,
)
from gempi_jax.em.choices import Threshold
from gempi_jax.methods.base import Method
from gempi_jax.methods.gempi import from_spec
from gempi_jax.methods.vmpo import FORWARD_KL, LINE_SEARCH
from gempi_jax.numerics import KL, FDivergence

FIXED = Fixed()
GIVEN = Given()
TILTED = Tilted()


def gempi(
    coefficient_ref: float | None = None,
    coefficient_old: float | None = 0.2,
    budget_ref: float | None = None,
    budget_old: float | None = None,
    *,
    divergence_ref: FDivergence = KL,
    divergence_old: FDivergence = KL,
    temperature: Fixed | Dual | Solved = FIXED,
    top_k_fraction: float = 1.0,
    top_k_by_group: bool = False,
    score: Score = Score.ADVANTAGE,
    threshold: float | None = None,
    transform: Transform = GIVEN,
    weighting: Weighting = TILTED,
    scope: Scope = Scope.BATCH,
    weight_clip: float | None = None,
    penalty: float | None = None,
    epsilon_alpha: float | None = None,
    trust_region: TokenDivergence = FORWARD_KL,
    towards: str = "old",
    enforced: Lagrangian | LineSearch = LINE_SEARCH,
    reduction: Reduction = Reduction.SUM,
    level: Level = Level.SEQUENCE,
) -> Method:
    """Any choice of anchors, temperature, filter, transform, weighting and trust region; every part has its own name.

    Args:
      coefficient_ref, coefficient_old: price of D(q || pi_ref) and of D(q || pi_t), units of the advantages.
      budget_ref, budget_old: or a budget, nats, for ``Dual()`` and ``Solved()``; with neither there is no such anchor.
      divergence_ref, divergence_old: D_j of (22).
      temperature: ``Fixed()``, ``Dual()`` or ``Solved()``.
      top_k_fraction: share of the samples that is kept; 1 keeps all.
      top_k_by_group: of each group, not of the batch.
      score: what top-k sorts by.
      threshold: keeps the samples whose reward is at least this.
      transform: what becomes of the rewards first.
      weighting: how advantages become weights.
      scope: over which weights are normalised.
      weight_clip: the largest weight, of unnormalised ones.
      penalty: gamma of (26).
      epsilon_alpha: or the budget of the trust region, nats per term; with neither it is unconstrained.
      trust_region: D_M.
      towards: the snapshot that D_M is measured to, old or ref.
      enforced: how the budget of the trust region is met.
      reduction: sum or mean over an example's terms.
      level: what a weight belongs to.

    Raises:
      ValueError: for a combination that means nothing, with what to give instead.
    """
    if threshold is not None and top_k_fraction < 1:
        raise ValueError(f"threshold = {threshold} beside top_k_fraction = {top_k_fraction}: give one filter.")
    if penalty is not None and epsilon_alpha is not None:
        raise ValueError(f"penalty = {penalty} beside epsilon_alpha = {epsilon_alpha}: a price or a budget, not both.")
    given = {
        "ref": (coefficient_ref, budget_ref, divergence_ref),
        "old": (coefficient_old, budget_old, divergence_old),
    }
    anchors = (Anchor(name, *each) for name, each in given.items() if each[:2] != (None, None))
    if threshold is not None:
        kept = Threshold(threshold)
    else:
        kept = Identity() if top_k_fraction == 1.0 else TopK(top_k_fraction, score, top_k_by_group)
    projection = Unconstrained()
    if penalty is not None:
        projection = Penalty(penalty, trust_region, towards)
    elif epsilon_alpha is not None:
        projection = Constraint(epsilon_alpha, trust_region, enforced, towards)
    return from_spec(
        GempiSpec(
            tuple(anchors), temperature, kept, projection, scope, weight_clip, reduction, transform, weighting, level
        )
    )
