"""What ``estep/*`` reports of a target; means over groups where the scope is the group."""

import jax.numpy as jnp

from gempi_jax.em import diagnostics
from gempi_jax.em.batch import Batch
from gempi_jax.em.choices import Scope
from gempi_jax.em.diagnostics import Scoped
from gempi_jax.em.spec import GempiSpec
from gempi_jax.numerics import reductions
from gempi_jax.numerics.divergences import KL
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array


def sample_metrics(
    spec: GempiSpec, batch: Batch, log_weights: Array, weights: Array, selected: Array, axis_name: AxisName
) -> dict[str, Array]:
    """How far the weights that train, scaled to sum to 1, are from uniform ones."""
    number = reductions.count(selected, axis_name=axis_name).astype(jnp.float32)
    # The largest of k weights that sum to 1 is at least 1/k: its square is no underflow.
    squares = reductions.sum(jnp.square(weights), axis_name=axis_name)
    size = jnp.where(squares > 0, 1.0 / jnp.where(squares > 0, squares, 1.0), 0.0)
    chi_squared = jnp.where(squares > 0, number * squares - 1.0, 0.0)
    values = {
        "ess": size,
        "ess_fraction": size / jnp.maximum(number, 1.0),
        "chi2": chi_squared,
        "weights_entropy": diagnostics.weights_entropy(weights, axis_name=axis_name),
        "max_weight": jnp.maximum(reductions.max(weights, axis_name=axis_name), 0.0),
        "selected_fraction": number / jnp.maximum(batch.number, 1.0),
        "truncation_mass": jnp.zeros(()),
        "log_partition_bias": -chi_squared / (2.0 * jnp.maximum(number, 1.0)),
        **batch.metrics,
    }
    if spec.weight_clip is not None:
        clipped = reductions.count(selected & (log_weights > jnp.log(spec.weight_clip)), axis_name=axis_name)
        values["clip_fraction"] = clipped.astype(jnp.float32) / jnp.maximum(number, 1.0)
    return values


def scope_metrics(
    spec: GempiSpec, scope: Scoped, shift: Array, selected: Array, axis_name: AxisName
) -> dict[str, Array]:
    """log Z-hat, of log-weights that lack ``shift``, and its bias -chi^2 / (2 k) where that is not the batch's."""
    log_z = scope.log_partition + jnp.where(scope.live, shift, 0.0)
    values = {"log_partition": scope.over_scopes(log_z)}
    if spec.scope is Scope.UNNORMALIZED:
        bias = diagnostics.log_partition_bias(scope.weights, where=selected, axis_name=axis_name)
        values["log_partition_bias"] = bias
    if spec.scope is Scope.GROUP:
        bias = diagnostics.log_partition_bias(scope.weights, where=selected, axis=-1)
        values["log_partition_bias"] = scope.over_scopes(bias[..., None])
    return values


def truncation(spec: GempiSpec, batch: Batch, log_weights: Array, selected: Array, axis_name: AxisName) -> Array:
    """Q*(S^c): what the filter drops of the target over all samples of a scope."""
    options = {"where": batch.where, "axis": spec.scope_axis, "axis_name": axis_name}
    weights = diagnostics.scoped(log_weights, **options).weights
    return reductions.sum(weights, where=batch.where & ~selected, axis_name=axis_name)


def anchor_metrics(spec: GempiSpec, coefficients: Array, kls: Array, spent: Array) -> dict[str, Array]:
    """Price, divergence and use of the budget of every anchor."""
    values = {}
    for j, anchor in enumerate(spec.anchors):
        values[f"coefficient/{anchor.policy}"] = coefficients[j]
        values[f"kl/{anchor.policy}"] = kls[j]
        name = "kl" if anchor.divergence is KL else anchor.divergence.name
        values[f"{name}/{anchor.policy}"] = spent[j]
        if anchor.budget is not None:
            values[f"{name}_over_budget/{anchor.policy}"] = spent[j] / anchor.budget
    return values
