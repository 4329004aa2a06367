"""V-MPO (section 3) and its form for language models (section 10)."""

from gempi_jax.em import (
    Anchor,
    Constraint,
    Dual,
    ExactDivergence,
    GempiSpec,
    Identity,
    Lagrangian,
    Level,
    LineSearch,
    Penalty,
    Reduction,
    Scope,
    Score,
    Solved,
    TokenDivergence,
    TopK,
)
from gempi_jax.methods.base import Method
from gempi_jax.methods.gempi import from_spec
from gempi_jax.numerics import KL, FDivergence, categorical_kl

SOLVED = Solved()
"""The temperature that meets the budget in every E-step."""

LINE_SEARCH = LineSearch()
"""The length of a step that meets the budget in every M-step."""

FORWARD_KL = ExactDivergence(categorical_kl)
"""KL(pi_k || pi_theta) per term, exact over the vocabulary: V-MPO's trust region."""


def vmpo(
    epsilon_eta: float = 0.3,
    epsilon_alpha: float | tuple[float, ...] = 0.01,
    top_k_fraction: float = 0.25,
    *,
    divergence: FDivergence = KL,
    temperature: Dual | Solved = SOLVED,
    trust_region: TokenDivergence = FORWARD_KL,
    enforced: Lagrangian | LineSearch = LINE_SEARCH,
    penalty: float | None = None,
    score: Score = Score.ADVANTAGE,
    scope: Scope = Scope.BATCH,
    reduction: Reduction = Reduction.SUM,
    level: Level = Level.SEQUENCE,
) -> Method:
    """m = 1, anchor pi_t, KL budget, top-k, weights over the batch, KL trust region to pi_t.

    The defaults are for language models, whose budgets are met in every iteration; the paper's, for control, are
    epsilon_eta 0.01 to 0.1, epsilon_alpha 0.005 to 0.01, the better half, ``Dual()`` and ``Lagrangian()``, (2).

    Args:
      epsilon_eta: budget of KL(q || pi_t), nats.
      epsilon_alpha: budget of the trust region, nats per term; (mean, covariance) for a Gaussian policy.
      top_k_fraction: share of the batch that is kept; 1 keeps all.
      divergence: D(q || pi_t) of (22), which ``epsilon_eta`` then bounds.
      temperature: ``Solved()``, or the paper's ``Dual()``, which takes iterations to meet the budget.
      trust_region: D_M.
      enforced: ``LineSearch()``, which meets the trust region's budget by the length of an iteration's step, or the
        paper's ``Lagrangian(initial)``, whose multiplier takes iterations to; from 5 for discrete actions, 1 for both
        parts of a Gaussian.
      penalty: fixed gamma of (26) in place of the budget.
      score: what top-k sorts by.
      scope: batch, as published, or group.
      reduction: sum or mean over an example's terms.
      level: what a weight belongs to, a completion or each of its tokens.
    """
    if penalty is not None:
        projection = Penalty(penalty, trust_region)
    else:
        projection = Constraint(epsilon_alpha, trust_region, enforced)
    return from_spec(
        GempiSpec(
            anchors=(Anchor("old", budget=epsilon_eta, divergence=divergence),),
            temperature=temperature,
            filter=Identity() if top_k_fraction == 1.0 else TopK(top_k_fraction, score),
            projection=projection,
            scope=scope,
            reduction=reduction,
            level=level,
        )
    )


__all__ = ["FORWARD_KL", "LINE_SEARCH", "SOLVED", "vmpo"]
