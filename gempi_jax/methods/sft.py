"""Supervised fine-tuning: the tuple with m = 0."""

from gempi_jax.em import GempiSpec, Reduction
from gempi_jax.methods.base import Method
from gempi_jax.methods.gempi import from_spec


def sft(*, reduction: Reduction = Reduction.SUM) -> Method:
    """q is the demonstrations themselves, weights 1/N, the M-step pure maximum likelihood.

    Args:
      reduction: sum or mean over the tokens of a demonstration.
    """
    return from_spec(GempiSpec(reduction=reduction))
