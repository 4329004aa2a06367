"""The filter F: which samples of the global batch carry the target."""

from jaxtyping import Bool, Float

from gempi_jax.em.choices import Identity, Score, TopK
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.numerics.selection import top_k_mask
from gempi_jax.types import Array


def select(
    rule: Identity | TopK,
    advantages: Float[Array, "*E"],
    log_weights: Float[Array, "*E"],
    *,
    where: Bool[Array, "*E"],
    tie_break: Float[Array, "*E"] | None = None,
    axis_name: AxisName = None,
) -> Bool[Array, "*E"]:
    """The selection S among the real samples.

    Args:
      rule: the filter of the tuple.
      advantages: A_i.
      log_weights: l_i, for ``Score.LOG_WEIGHT``.
      where: the samples that are real and tell something.
      tie_break: a second score where the first is tied.
      axis_name: mapped axes over which the leading axis is spread.
    """
    if isinstance(rule, Identity):
        return where
    score = advantages if rule.score is Score.ADVANTAGE else log_weights
    return top_k_mask(score, rule.fraction, where=where, tie_break=tie_break, axis_name=axis_name)
