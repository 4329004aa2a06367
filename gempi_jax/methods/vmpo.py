"""V-MPO (section 3) and its form for language models (section 10)."""

from gempi_jax.em import (
    Anchor,
    Constraint,
    Dual,
    ExactDivergence,
    GempiSpec,
    Identity,
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

FORWARD_KL = ExactDivergence(categorical_kl)
"""KL(pi_k || pi_theta) per term, exact over the vocabulary: V-MPO's trust region."""


def vmpo(
    epsilon_eta: float = 0.1,
    epsilon_alpha: float | tuple[float, ...] = 0.003,
    top_k_fraction: float = 0.5,
    *,
    divergence: FDivergence = KL,
    temperature: Dual | Solved | None = None,
    trust_region: TokenDivergence = FORWARD_KL,
    initial_multiplier: float | tuple[float, ...] = 5.0,
    penalty: float | None = None,
    score: Score = Score.ADVANTAGE,
    scope: Scope = Scope.BATCH,
    reduction: Reduction = Reduction.SUM,
) -> Method:
    """m = 1, anchor pi_t, KL budget, top-k, weights over the batch, KL trust region to pi_t by the Lagrangian (2).

    Args:
      epsilon_eta: budget of KL(q || pi_t), nats.
      epsilon_alpha: budget of the trust region, nats per term; (mean, covariance) for a Gaussian policy.
      top_k_fraction: share of the batch that is kept; 1 keeps all.
      divergence: D(q || pi_t) of (22), which ``epsilon_eta`` then bounds.
      temperature: ``Solved()``, the default, or the paper's ``Dual()``, which takes iterations to
        meet the budget.
      trust_region: D_M.
      initial_multiplier: alpha at the start: 5 for discrete actions, 1 for both parts of a Gaussian.
      penalty: fixed gamma of (26) in place of the budget.
      score: what top-k sorts by.
      scope: batch, as published, or group.
      reduction: sum or mean over an example's terms.
    """
    if penalty is not None:
        projection = Penalty(penalty, trust_region)
    else:
        projection = Constraint(epsilon_alpha, trust_region, initial_multiplier)
    return from_spec(
        GempiSpec(
            anchors=(Anchor("old", budget=epsilon_eta, divergence=divergence),),
            temperature=Solved() if temperature is None else temperature,
            filter=Identity() if top_k_fraction == 1.0 else TopK(top_k_fraction, score),
            projection=projection,
            scope=scope,
            reduction=reduction,
        )
    )


__all__ = ["FORWARD_KL", "vmpo"]
