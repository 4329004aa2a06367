"""Direct advantage regression (section 7) and the document's new combinations with V-MPO (section 10)."""

from gempi_jax.em import (
    Anchor,
    Constraint,
    Dual,
    Fixed,
    GempiSpec,
    Given,
    Lagrangian,
    LineSearch,
    Reduction,
    Scope,
    Score,
    Solved,
    Standardized,
    TokenDivergence,
    TopK,
)
from gempi_jax.methods.base import Method
from gempi_jax.methods.gempi import from_spec
from gempi_jax.methods.vmpo import FORWARD_KL, LINE_SEARCH, SOLVED
from gempi_jax.numerics import KL, FDivergence


def _anchors(
    alpha: float, beta: float, divergence_ref: FDivergence, divergence_old: FDivergence
) -> tuple[Anchor, Anchor]:
    return Anchor("ref", alpha, divergence=divergence_ref), Anchor("old", beta, divergence=divergence_old)


def dar(
    alpha: float = 0.001,
    beta: float = 0.009,
    *,
    divergence_ref: FDivergence = KL,
    divergence_old: FDivergence = KL,
    weight_clip: float | None = 20.0,
    scope: Scope = Scope.UNNORMALIZED,
    standardized: bool = False,
    reduction: Reduction = Reduction.SUM,
) -> Method:
    """(7): m = 2, anchors pi_ref and pi_t, fixed coefficients, unconstrained M-step; weights as published, clipped.

    It ends at pi_ref e^(A / alpha): alpha times the nats of a completion that learning takes, some 40 for 40 tokens,
    has to be less than what it gains.

    Args:
      alpha: price of KL(q || pi_ref) per nat of a completion, units of the advantages.  The paper has 0.005, and 0.045
        for beta, in standard deviations (``standardized``); the defaults are these where rewards vary by 0.2.
      beta: price of KL(q || pi_t).
      divergence_ref: D(q || pi_ref) of (22).
      divergence_old: D(q || pi_t) of (22).
      weight_clip: the largest product of both factors; ``None`` with normalised scopes.
      scope: none, as published, or batch or group for self-normalised weights.
      standardized: takes advantages in standard deviations of the batch, as published; prices are in these, then.
      reduction: sum or mean over an example's terms.
    """
    clip = weight_clip if scope is Scope.UNNORMALIZED else None
    return from_spec(
        GempiSpec(
            _anchors(alpha, beta, divergence_ref, divergence_old),
            Fixed(),
            scope=scope,
            weight_clip=clip,
            reduction=reduction,
            transform=Standardized() if standardized else Given(),
        )
    )


def at_dar(
    epsilon_ref: float = 40.0,
    epsilon_old: float = 0.3,
    *,
    divergence_ref: FDivergence = KL,
    divergence_old: FDivergence = KL,
    temperature: Dual | Solved = SOLVED,
    scope: Scope = Scope.BATCH,
    reduction: Reduction = Reduction.SUM,
) -> Method:
    """AT-DAR: DAR with a KL budget per anchor; both coefficients adapt, (25).

    As pi_t drifts from pi_ref the two budgets can become infeasible; ``Solved()`` (the default) reports it in
    ``estep/feasible`` and ``estep/shortfall`` and stays finite.

    Args:
      epsilon_ref: budget of KL(q || pi_ref), nats of a completion; about one for each of its tokens leaves room to
        learn, a tenth of that is soon infeasible.
      epsilon_old: budget of KL(q || pi_t), nats.
      divergence_ref: D(q || pi_ref) of (22).
      divergence_old: D(q || pi_t) of (22).
      temperature: ``Solved()`` or ``Dual()``.
      scope: batch or group.
      reduction: sum or mean over an example's terms.
    """
    return from_spec(
        GempiSpec(
            (
                Anchor("ref", budget=epsilon_ref, divergence=divergence_ref),
                Anchor("old", budget=epsilon_old, divergence=divergence_old),
            ),
            temperature,
            scope=scope,
            reduction=reduction,
        )
    )


def dar_tr(
    alpha: float = 0.002,
    beta: float = 0.198,
    epsilon_alpha: float = 0.01,
    *,
    divergence_ref: FDivergence = KL,
    divergence_old: FDivergence = KL,
    trust_region: TokenDivergence = FORWARD_KL,
    enforced: Lagrangian | LineSearch = LINE_SEARCH,
    weight_clip: float | None = 20.0,
    reduction: Reduction = Reduction.SUM,
) -> Method:
    """DAR-TR: DAR's E-step with V-MPO's trust region in the M-step.

    Args:
      alpha: price of KL(q || pi_ref).
      beta: price of KL(q || pi_t).
      epsilon_alpha: budget of the trust region, nats per term.
      divergence_ref: D(q || pi_ref) of (22).
      divergence_old: D(q || pi_t) of (22).
      trust_region: D_M.
      enforced: ``LineSearch()`` or the paper's ``Lagrangian(initial)``.
      weight_clip: the largest weight.
      reduction: sum or mean over an example's terms.
    """
    projection = Constraint(epsilon_alpha, trust_region, enforced)
    return from_spec(
        GempiSpec(
            _anchors(alpha, beta, divergence_ref, divergence_old),
            projection=projection,
            scope=Scope.UNNORMALIZED,
            weight_clip=weight_clip,
            reduction=reduction,
        )
    )


def top_k_dar(
    alpha: float = 0.002,
    beta: float = 0.198,
    top_k_fraction: float = 0.25,
    *,
    divergence_ref: FDivergence = KL,
    divergence_old: FDivergence = KL,
    score: Score = Score.ADVANTAGE,
    scope: Scope = Scope.BATCH,
    reduction: Reduction = Reduction.SUM,
) -> Method:
    """Top-k DAR: DAR's weights on the samples with the largest advantages only, normalised over the selection.

    Args:
      alpha: price of KL(q || pi_ref).
      beta: price of KL(q || pi_t).
      top_k_fraction: share of the batch that is kept.
      divergence_ref: D(q || pi_ref) of (22).
      divergence_old: D(q || pi_t) of (22).
      score: what top-k sorts by.
      scope: of the normalisation.
      reduction: sum or mean over an example's terms.
    """
    return from_spec(
        GempiSpec(
            _anchors(alpha, beta, divergence_ref, divergence_old),
            filter=TopK(top_k_fraction, score),
            scope=scope,
            reduction=reduction,
        )
    )
