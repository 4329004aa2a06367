"""RL-EM: the KL-regularised objective of RLHF by expectation-maximisation."""

from gempi_jax.em import (
    Anchor,
    Constraint,
    GempiSpec,
    Lagrangian,
    LineSearch,
    Reduction,
    Scope,
    TokenDivergence,
    Unconstrained,
)
from gempi_jax.methods.base import Method
from gempi_jax.methods.gempi import from_spec
from gempi_jax.methods.vmpo import FORWARD_KL, LINE_SEARCH
from gempi_jax.numerics import KL, FDivergence


def rl_em(
    beta: float = 0.2,
    *,
    divergence: FDivergence = KL,
    epsilon_alpha: float | None = None,
    trust_region: TokenDivergence = FORWARD_KL,
    enforced: Lagrangian | LineSearch = LINE_SEARCH,
    scope: Scope = Scope.GROUP,
    reduction: Reduction = Reduction.SUM,
) -> Method:
    """m = 1, anchor pi_ref, fixed beta: q* = pi_ref exp(r / beta) / Z(x), the target that DPO leaves implicit.

    Args:
      beta: price of KL(q || pi_ref), units of the reward.
      divergence: D(q || pi_ref) of (22).
      epsilon_alpha: budget of an optional trust region to pi_t, nats per term; ``None`` is an unconstrained M-step.
      trust_region: D_M of that trust region.
      enforced: ``LineSearch()`` or the paper's ``Lagrangian(initial)``.
      scope: group by default, because Z(x) is per prompt.
      reduction: sum or mean over an example's terms.
    """
    projection = Unconstrained() if epsilon_alpha is None else Constraint(epsilon_alpha, trust_region, enforced)
    anchors = (Anchor("ref", beta, divergence=divergence),)
    return from_spec(GempiSpec(anchors, projection=projection, scope=scope, reduction=reduction))
