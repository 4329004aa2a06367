"""Advantage-weighted regression (section 6)."""

from gempi_jax.em import Anchor, GempiSpec, Reduction, Scope
from gempi_jax.methods.base import Method
from gempi_jax.methods.gempi import from_spec
from gempi_jax.numerics import KL, FDivergence


def awr(
    beta: float = 0.2,
    *,
    divergence: FDivergence = KL,
    weight_clip: float | None = 20.0,
    reduction: Reduction = Reduction.SUM,
) -> Method:
    """m = 1, anchor pi_t, fixed coefficient beta; weights min(exp(A / beta), clip), not normalised, as published.

    Args:
      beta: temperature, units of the advantages.
      divergence: D(q || pi_t) of (22); any but KL has weights of mean 1 before the clip.
      weight_clip: the largest exp(l); the paper's is 20.
      reduction: sum or mean over an example's terms.
    """
    anchors = (Anchor("old", beta, divergence=divergence),)
    return from_spec(GempiSpec(anchors, scope=Scope.UNNORMALIZED, weight_clip=weight_clip, reduction=reduction))
