"""The filter F: which samples of the global batch carry the target."""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.em.spec import Identity, Score, TopK
from gempi_jax.numerics import reductions
from gempi_jax.numerics.masked import flat_groups
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.numerics.selection import top_k_mask
from gempi_jax.types import Array


def informative(
    advantages: Float[Array, "*E"], *, where: Bool[Array, "*E"], axis_name: AxisName = None
) -> Bool[Array, "*E"]:
    """The real samples of groups (last axis) in which the advantages differ; all of them when every group is flat."""
    flat = jnp.broadcast_to(flat_groups(advantages, where=where)[..., None], where.shape)
    kept = where & ~flat
    return jnp.where(reductions.count(kept, axis_name=axis_name) > 0, kept, where)


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
      where: the samples that are real.
      tie_break: a second score where the first is tied.
      axis_name: mapped axes over which the leading axis is spread.
    """
    if isinstance(rule, Identity):
        return where
    if rule.skip_flat_groups:
        # k stays a share of all real samples; fewer than k are kept when fewer say anything.
        kept = informative(advantages, where=where, axis_name=axis_name)
    else:
        kept = where
    score = advantages if rule.score is Score.ADVANTAGE else log_weights
    return top_k_mask(score, rule.fraction, where=kept, total=where, tie_break=tie_break, axis_name=axis_name)
