"""The filter F: which samples carry the target."""

import jax
from jaxtyping import Bool, Float

from gempi_jax.em.choices import Filter, Identity, Score, Threshold, TopK
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.numerics.selection import top_k_mask
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
    score = advantages if rule.score is Score.ADVANTAGE else log_weights
    if not rule.by_group:
        return top_k_mask(score, rule.fraction, where=where, tie_break=rewards, axis_name=axis_name)
    return best_of_groups(rule, score, where, rewards)


def best_of_groups(
    rule: TopK, scores: Float[Array, "G *K"], where: Bool[Array, "G *K"], tie_break: Float[Array, "G *K"] | None
) -> Bool[Array, "G *K"]:
    """The top k of every group, all that follows axis 0 in one; none of a group that tells nothing."""

    def of_group(scores, where, tie_break):
        return top_k_mask(scores, rule.fraction, where=where, tie_break=tie_break)

    return jax.vmap(of_group)(scores, where, scores if tie_break is None else tie_break)
