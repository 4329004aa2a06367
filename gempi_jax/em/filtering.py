"""The filter F: which samples carry the target."""

import math

from jaxtyping import Bool, Float

from gempi_jax.em.choices import Filter, Identity, Score, Threshold
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.numerics.selection import top_k_mask, top_k_of_groups
from gempi_jax.types import Array


def select(
    rule: Filter,
    advantages: Float[Array, "*E"],
    log_weights: Float[Array, "*E"],
    *,
    where: Bool[Array, "*E"],
    rewards: Float[Array, "*E"] | None = None,
    axis_name: AxisName = None,
) -> Bool[Array, "*E"]:
    """The selection S among the real samples.

    Args:
      rule: the filter of the tuple.
      advantages: A_i.
      log_weights: l_i, for ``Score.LOG_WEIGHT``.
      where: the samples that are real and tell something.
      rewards: r_i, for a threshold and where advantages are tied.
      axis_name: mapped axes over which the leading axis is spread.

    Raises:
      ValueError: a threshold without rewards.
    """
    if isinstance(rule, Identity):
        return where
    if isinstance(rule, Threshold):
        if rewards is None:
            raise ValueError(f"{rule} needs Samples.rewards, the rewards themselves: give them.")
        return where & (rewards >= rule.minimum)
    scores = advantages if rule.score is Score.ADVANTAGE else log_weights
    if not rule.by_group:
        return top_k_mask(scores, rule.fraction, where=where, tie_break=rewards, axis_name=axis_name)
    shape = scores.shape
    by_group = shape[0], math.prod(shape[1:])
    scores, where, *second = (x.reshape(by_group) for x in (scores, where, rewards) if x is not None)
    return top_k_of_groups(scores, rule.fraction, where=where, tie_break=second[0] if second else None).reshape(shape)
