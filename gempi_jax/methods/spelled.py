"""The tuple spelled out in numbers and names, as a config writes them: any weighted likelihood of the table."""

from gempi_jax.em import (
    Anchor,
    Constraint,
    Dual,
    Filter,
    Fixed,
    GempiSpec,
    Given,
    Identity,
    Lagrangian,
    Level,
    LineSearch,
    Penalty,
    Projection,
    Reduction,
    Scope,
    Score,
    Solved,
    Threshold,
    Tilted,
    TokenDivergence,
    TopK,
    Transform,
    Unconstrained,
    Weighting,
)
from gempi_jax.methods.base import Method
from gempi_jax.methods.gempi import from_spec
from gempi_jax.methods.sft import with_prior
from gempi_jax.methods.vmpo import FORWARD_KL, LINE_SEARCH
from gempi_jax.numerics import KL, FDivergence
from gempi_jax.numerics.checks import require

FIXED = Fixed()
GIVEN = Given()
TILTED = Tilted()


def gempi(
    coefficient_ref: float = 0.0,
    coefficient_old: float = 0.2,
    budget_ref: float = 0.0,
    budget_old: float = 0.0,
    *,
    divergence_ref: FDivergence = KL,
    divergence_old: FDivergence = KL,
    temperature: Fixed | Dual | Solved = FIXED,
    transform: Transform = GIVEN,
    top_k_fraction: float = 1.0,
    top_k_by_group: bool = False,
    score: Score = Score.ADVANTAGE,
    threshold: float | None = None,
    weighting: Weighting = TILTED,
    scope: Scope = Scope.BATCH,
    weight_clip: float = 0.0,
    penalty: float = 0.0,
    epsilon_alpha: float | tuple[float, ...] = 0.0,
    trust_region: TokenDivergence = FORWARD_KL,
    towards: str = "old",
    enforced: Lagrangian | LineSearch = LINE_SEARCH,
    precision: float = 0.0,
    reduction: Reduction = Reduction.SUM,
    level: Level = Level.SEQUENCE,
) -> Method:
    """Any point of the tuple whose M-step is the weighted likelihood (29): every part has an argument of its own.

    At its defaults it is AWR's target, pi_t e^(A / 0.2), normalised over the batch.  Each row of the table that fits by
    (29) is this with that row's settings.  A price or budget of 0 is none: no such anchor, no such trust region.

    Args:
      coefficient_ref: price of D(q || pi_ref), units of the advantages.
      coefficient_old: price of D(q || pi_t).
      budget_ref: or its budget, nats, for ``Dual()`` and ``Solved()``.
      budget_old: or its budget, nats.
      divergence_ref: D(q || pi_ref) of (22).
      divergence_old: D(q || pi_t) of (22).
      temperature: ``Fixed()``, ``Dual()`` or ``Solved()``.
      transform: what becomes of rewards and advantages first.
      top_k_fraction: share of the samples that is kept; 1 keeps all.
      top_k_by_group: of those of each group, not of the batch.
      score: what top-k sorts by.
      threshold: or the least reward that is kept.
      weighting: how advantages become weights.
      scope: over which weights are normalised.
      weight_clip: the largest weight, of unnormalised ones; 0 is no limit.
      penalty: gamma of (26).
      epsilon_alpha: or the budget of the trust region, nats per term; (mean, covariance) for a Gaussian policy.
      trust_region: D_M.
      towards: the snapshot that D_M is measured towards, ``"old"`` or ``"ref"``.
      enforced: how the budget of the trust region is met.
      precision: of a Gaussian prior around where training started, for each example.
      reduction: sum or mean over an example's terms.
      level: what a weight belongs to, a completion or each of its tokens.

    Raises:
      ValueError: for a combination that means nothing, with what to give instead.
    """
    spec = GempiSpec(
        anchors=(
            *_anchor("ref", coefficient_ref, budget_ref, divergence_ref),
            *_anchor("old", coefficient_old, budget_old, divergence_old),
        ),
        temperature=temperature,
        filter=_filter(top_k_fraction, top_k_by_group, threshold, score),
        projection=_projection(penalty, epsilon_alpha, trust_region, enforced, towards),
        scope=scope,
        weight_clip=weight_clip or None,
        reduction=reduction,
        transform=transform,
        weighting=weighting,
        level=level,
    )
    return with_prior(from_spec(spec), precision)


def _anchor(policy: str, coefficient: float, budget: float, divergence: FDivergence) -> tuple[Anchor, ...]:
    """The anchor, or none without a price and a budget."""
    if not coefficient and not budget:
        return ()
    return (Anchor(policy, coefficient or None, budget or None, divergence),)


def _filter(top_k_fraction: float, by_group: bool, threshold: float | None, score: Score) -> Filter:
    """The one that has a number, or none."""
    require(
        top_k_fraction == 1.0 or threshold is None,
        f"gempi has top_k_fraction={top_k_fraction} and threshold={threshold}: the tuple has one filter; give one.",
    )
    if top_k_fraction != 1.0:
        return TopK(top_k_fraction, score, by_group)
    return Identity() if threshold is None else Threshold(threshold)


def _projection(
    penalty: float,
    epsilon_alpha: float | tuple[float, ...],
    trust_region: TokenDivergence,
    enforced: Lagrangian | LineSearch,
    towards: str,
) -> Projection:
    """The one that has a number, or none."""
    require(
        not penalty or not epsilon_alpha,
        f"gempi has penalty={penalty} and epsilon_alpha={epsilon_alpha}: a price or a budget of D_M; give one of them.",
    )
    if penalty:
        return Penalty(penalty, trust_region, towards=towards)
    if epsilon_alpha:
        return Constraint(epsilon_alpha, trust_region, enforced, towards)
    return Unconstrained()
