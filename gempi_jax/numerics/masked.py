"""Statistics of the real entries of a padded array."""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.numerics import reductions
from gempi_jax.numerics.reductions import Axis, AxisName
from gempi_jax.types import Array


def real(values: Array, where: Bool[Array, "*E"] | None) -> Array:
    """The mask as an array: all true when ``None``."""
    return jnp.ones(values.shape, bool) if where is None else jnp.broadcast_to(where, values.shape)


def centre(
    values: Float[Array, "*E"],
    *,
    where: Bool[Array, "*E"] | None = None,
    axis: int | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "*E"]:
    """Values minus their masked mean over ``axis`` (all axes when ``None``); masked entries become 0.

    Equal values give exactly 0: their mean itself may differ from them by rounding, so the largest goes first.
    """
    mask = real(values, where)
    largest = reductions.max(values, where=mask, axis=axis, axis_name=axis_name, keepdims=True)
    values = values - jnp.where(largest > -jnp.inf, largest, 0.0)
    mean = reductions.mean(values, where=mask, axis=axis, axis_name=axis_name)
    mean = jnp.broadcast_to(mean if axis is None else jnp.expand_dims(mean, axis), values.shape)
    return jnp.where(mask, values - mean, 0.0)


def variance(
    values: Float[Array, "*E"],
    *,
    where: Bool[Array, "*E"] | None = None,
    axis: int | None = None,
    axis_name: AxisName = None,
) -> Array:
    """Mean squared deviation of the real entries (divided by their number, not by one less)."""
    deviations = centre(values, where=where, axis=axis, axis_name=axis_name)
    return reductions.mean(jnp.square(deviations), where=real(values, where), axis=axis, axis_name=axis_name)


def standardize(
    values: Float[Array, "*E"],
    *,
    where: Bool[Array, "*E"] | None = None,
    axis: int | None = None,
    axis_name: AxisName = None,
    epsilon: float = 1e-8,
) -> Float[Array, "*E"]:
    """Zero mean and unit standard deviation over the real entries; zeros where they are all equal.

    Args:
      values: any array.
      where: the entries that are real.
      axis: over which axis; all when ``None`` (DAR normalises over the batch).
      axis_name: mapped axes over which the entries are spread.
      epsilon: added to the standard deviation, in units of the values.
    """
    deviations = centre(values, where=where, axis=axis, axis_name=axis_name)
    spread = jnp.sqrt(variance(values, where=where, axis=axis, axis_name=axis_name)) + epsilon
    return deviations / jnp.broadcast_to(spread if axis is None else jnp.expand_dims(spread, axis), values.shape)


def telling(
    values: Float[Array, "*E"],
    *,
    where: Bool[Array, "*E"] | None = None,
    axis: int | None = None,
    axis_name: AxisName = None,
) -> Bool[Array, "*E"]:
    """The real entries that are compared with a different one: none where those along ``axis`` are all equal.

    Values are compared as they are, without arithmetic that would round.

    Args:
      values: any array.
      where: the entries that are real.
      axis: along which axis they are compared; all with all when ``None``.
      axis_name: mapped axes over which the compared entries are spread.
    """
    mask = real(values, where)
    options = {"where": mask, "axis": axis, "axis_name": axis_name, "keepdims": True}
    return mask & (reductions.max(values, **options) > -reductions.max(-values, **options))


__all__ = ["Axis", "centre", "real", "standardize", "telling", "variance"]
