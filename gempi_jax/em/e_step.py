"""The one E-step: detached weights of the target q* on samples, from any setting of the tuple."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.contracts import Metric, Samples, Target
from gempi_jax.em import diagnostics, mixture
from gempi_jax.em.duals import MINIMUM, temperature_dual
from gempi_jax.em.filtering import select
from gempi_jax.em.spec import Dual, Fixed, GempiSpec, Scope, Score, TopK
from gempi_jax.em.target import sampled_divergences, target_log_weights
from gempi_jax.em.temperature import TemperatureSolution, solve_temperature
from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import LARGEST
from gempi_jax.numerics.divergences import KL
from gempi_jax.numerics.masked import real
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array, Duals


class _Batch(NamedTuple):
    """Detached samples without an undefined number, and which of them count."""

    advantages: Float[Array, "*E"]
    log_ratios: Float[Array, "m *E"]
    where: Bool[Array, "*E"]
    number: Float[Array, ""]
    invalid: Float[Array, ""]


def _check(spec: GempiSpec, samples: Samples) -> None:
    """Says at trace time which shape is wrong."""
    shape = samples.advantages.shape
    if samples.sampler_log_probs.shape != shape:
        raise ValueError(
            f"sampler_log_probs {samples.sampler_log_probs.shape} must have the advantages' shape {shape}."
        )
    expected = (len(spec.anchors), *shape)
    if samples.anchor_log_probs.shape != expected:
        raise ValueError(
            f"anchor_log_probs {samples.anchor_log_probs.shape} must be {expected}: one row for each of the anchors "
            f"{spec.policies}, in this order."
        )
    for name in ("mask", "tie_break"):
        value = getattr(samples, name)
        if value is not None and value.shape != shape:
            raise ValueError(f"{name} {value.shape} must have the advantages' shape {shape}.")
    by_group = {
        "Scope.GROUP": spec.scope is Scope.GROUP,
        "skip_flat_groups": isinstance(spec.filter, TopK) and spec.filter.skip_flat_groups,
    }
    for name, wanted in by_group.items():
        if wanted and len(shape) < 2:
            raise ValueError(f"{name} needs advantages [..., G, K] with the K samples of a group last, not {shape}.")


def _clean(samples: Samples, axis_name: AxisName) -> _Batch:
    """Masks what is padding and what is no number or too large a one; -inf of an anchor stays, it means q* = 0."""
    samples = reductions.detach(samples)
    given = real(samples.advantages, samples.mask)
    usable = (jnp.abs(samples.advantages) < LARGEST) & (jnp.abs(samples.sampler_log_probs) < LARGEST)
    usable = mixture.over_anchors(lambda kept, row: kept & (row < LARGEST), samples.anchor_log_probs, usable)
    where = given & usable
    advantages = jnp.where(where, samples.advantages, 0.0).astype(jnp.float32)
    sampler = jnp.where(where, samples.sampler_log_probs, 0.0).astype(jnp.float32)
    anchors = jnp.where(where[None], samples.anchor_log_probs, 0.0).astype(jnp.float32)
    anchors = jnp.where(anchors > -LARGEST, anchors, -jnp.inf)
    number = reductions.count(where, axis_name=axis_name).astype(jnp.float32)
    invalid = reductions.count(given & ~usable, axis_name=axis_name).astype(jnp.float32)
    ratios = mixture.anchor_log_ratios(anchors, sampler)
    # Materialised: the many sums that follow would clean the samples again in each.  The counts stay out of it, since
    # a barrier makes what is equal on all devices as local as its other operands.
    advantages, ratios, where = jax.lax.optimization_barrier((advantages, ratios, where))
    return _Batch(advantages, ratios, where, number, invalid)


def _budgets(spec: GempiSpec) -> Float[Array, "m"]:
    """eps_j; 1 in place of those that have a price instead."""
    return jnp.asarray([anchor.budget or 1.0 for anchor in spec.anchors], jnp.float32)


def _prices(spec: GempiSpec) -> Float[Array, "m"]:
    """The fixed lambda_j; 0 in place of those that are found."""
    return jnp.asarray([price or 0.0 for price in spec.prices], jnp.float32)


def _adaptive(spec: GempiSpec, duals: Duals) -> Float[Array, "m"]:
    """The temperatures among the duals, what is no positive number as the smallest one; prices that are fixed stay."""
    expected = (len(spec.anchors),)
    given = duals.get("temperature")
    if given is None or given.shape != expected:
        raise ValueError(
            f"Dual() reads duals['temperature'] of shape {expected}, one for each of the anchors {spec.policies}, not "
            f"{getattr(given, 'shape', None)}: start from Method.init()."
        )
    adapted = jnp.where(given >= MINIMUM, jnp.minimum(given, LARGEST), MINIMUM)
    return jnp.where(_prices(spec) > 0, _prices(spec), adapted)


def _coefficients(
    spec: GempiSpec, duals: Duals, batch: _Batch, selected: Bool[Array, "*E"], axis_name: AxisName
) -> tuple[Float[Array, "m"], TemperatureSolution | None]:
    """lambda by the tuple's temperature mechanism, on the selected samples."""
    if isinstance(spec.temperature, Fixed):
        return _prices(spec), None
    if isinstance(spec.temperature, Dual):
        return _adaptive(spec, duals), None
    solution = solve_temperature(
        _budgets(spec),
        batch.advantages,
        batch.log_ratios,
        divergences=spec.divergences,
        prices=spec.prices,
        where=selected,
        axis=spec.scope_axis,
        axis_name=axis_name,
    )
    return solution.coefficients, solution


def _filter(spec: GempiSpec, duals: Duals, batch: _Batch, tie_break: Array | None, axis_name: AxisName):
    """S; by log-weight it needs a temperature first, which is then solved on all real samples."""
    log_weights = batch.advantages
    if isinstance(spec.filter, TopK) and spec.filter.score is Score.LOG_WEIGHT:
        first, _ = _coefficients(spec, duals, batch, batch.where, axis_name)
        log_weights = _log_weights(spec, batch, first, batch.where, axis_name)
    tie_break = None if tie_break is None else reductions.detach(tie_break)
    return select(
        spec.filter, batch.advantages, log_weights, where=batch.where, tie_break=tie_break, axis_name=axis_name
    )


def _log_weights(
    spec: GempiSpec, batch: _Batch, coefficients: Float[Array, "m"], where: Bool[Array, "*E"], axis_name: AxisName
) -> Float[Array, "*E"]:
    """l_i: in closed form for KL, which needs no scope; otherwise (22) solved on the samples of the scope."""
    if spec.closed_form:
        return mixture.log_weights_from_ratios(batch.advantages, batch.log_ratios, coefficients)
    return target_log_weights(
        batch.advantages,
        batch.log_ratios,
        coefficients,
        spec.divergences,
        where=where,
        axis=spec.scope_axis,
        axis_name=axis_name,
    )


def _spent(spec: GempiSpec, batch: _Batch, log_weights: Array, selected: Array, axis_name: AxisName) -> Array:
    """D_j(q || pi_j) [m]; one that overflows, as where no selected sample is likely under an anchor, is 1e30."""
    spent = sampled_divergences(
        log_weights, batch.log_ratios, spec.divergences, where=selected, axis=spec.scope_axis, axis_name=axis_name
    )
    return jnp.minimum(spent, 1e30)


def _dual_loss(
    spec: GempiSpec, coefficients: Array, batch: _Batch, log_weights: Array, selected: Array, axis_name: AxisName
) -> Float[Array, ""]:
    """L(lambda), (25); for divergences without a closed form its value and its gradient eps - D(q*) at lambda."""
    if not isinstance(spec.temperature, Dual):
        return jnp.zeros(())
    axis = spec.scope_axis
    budgets = _budgets(spec)
    # A price has no budget: lambda eps of the 1 in its place is taken off again.
    without = jnp.dot(_prices(spec), budgets)
    if spec.closed_form:
        dual = temperature_dual(
            coefficients, budgets, batch.advantages, batch.log_ratios, where=selected, axis=axis, axis_name=axis_name
        )
        return dual - without
    spent = _spent(spec, batch, log_weights, selected, axis_name)
    weights = diagnostics.scope_weights(log_weights, where=selected, axis=axis, axis_name=axis_name)
    gain = reductions.sum(weights * batch.advantages, axis_name=axis_name)
    # max over q of E_q[A] - lambda . (D - eps): by the envelope its derivative in lambda leaves q alone.
    return reductions.detach(gain) + jnp.dot(coefficients, budgets - reductions.detach(spent)) - without


def _weights(spec: GempiSpec, log_weights: Array, normalized: Array, selected: Array, number: Array) -> Array:
    """Normalised over the batch, to 1/G by group, or min(exp(l), clip) / N."""
    if spec.scope is Scope.NONE:
        # exp overflows beyond 88 nats; what is beyond is a weight that a clip should have caught.
        bounded = jnp.minimum(log_weights, 80.0 if spec.weight_clip is None else jnp.log(spec.weight_clip))
        return jnp.where(selected, jnp.exp(jnp.where(selected, bounded, 0.0)), 0.0) / jnp.maximum(number, 1.0)
    return normalized


def e_step(spec: GempiSpec, duals: Duals, samples: Samples, *, axis_name: AxisName = None) -> Target:
    """The E-step (22)-(25) and (27)-(28): filter, temperatures, weights, dual, diagnostics.

    Args:
      spec: the tuple.
      duals: ``{"temperature": [m]}`` when temperatures are dual-adaptive, else unread.
      samples: a global batch [*E], or the local part of one spread over ``axis_name``.  By groups the last axis holds
        the samples of a group.  Samples that are not a number, or beyond 1e15, are left out and counted in
        ``estep/invalid_samples``; temperatures among the duals that are not positive numbers become 1e-8 and are
        counted in ``estep/invalid_duals``.
      axis_name: mapped axes over which the leading axis is spread.

    Returns:
      The target. ``dual_loss`` has the gradient eps - KL-hat in the duals and none in anything else.

    Raises:
      ValueError: where shapes disagree.
    """
    _check(spec, samples)
    batch = _clean(samples, axis_name)
    selected = _filter(spec, reductions.detach(duals), batch, samples.tie_break, axis_name)
    coefficients, solution = _coefficients(spec, duals, batch, selected, axis_name)
    log_weights = _log_weights(spec, batch, reductions.detach(coefficients), selected, axis_name)
    normalized, log_z, log_total = diagnostics.scope_totals(
        log_weights, where=selected, axis=spec.scope_axis, axis_name=axis_name
    )
    selected, log_weights, normalized = jax.lax.optimization_barrier((selected, log_weights, normalized))
    weights = _weights(spec, log_weights, normalized, selected, batch.number)
    shares = normalized
    if spec.scope is Scope.NONE:
        total = reductions.sum(weights, axis_name=axis_name)
        shares = weights / jnp.where(total > 0, total, 1.0)
    dual_loss = _dual_loss(spec, coefficients, batch, log_weights, selected, axis_name)
    coefficients = reductions.detach(coefficients)
    metrics = {
        **_sample_metrics(spec, batch, log_weights, shares, selected, axis_name),
        **_anchor_metrics(spec, batch, coefficients, log_weights, normalized, log_z, selected, axis_name),
        "log_partition": log_z,
        "temperature": jnp.sum(coefficients),
    }
    if spec.scope is not Scope.BATCH:
        metrics["log_partition_bias"] = _log_partition_bias(spec, normalized, selected, axis_name)
    if isinstance(spec.filter, TopK):
        rest = reductions.logsumexp(log_weights, where=batch.where & ~selected, axis_name=axis_name)
        # exp(rest) / (exp(rest) + exp(total)), Q*(S^c) of the target over all real samples.
        some = (rest > -jnp.inf) & (log_total > -jnp.inf)
        metrics["truncation_mass"] = jnp.where(some, jax.nn.sigmoid(jnp.where(some, rest - log_total, 0.0)), 0.0)
    if isinstance(spec.temperature, Dual):
        given = duals["temperature"]
        metrics["invalid_duals"] = jnp.sum(~((given > 0) & (given < jnp.inf)))
    if solution is not None:
        metrics["feasible"] = solution.feasible
        metrics["shortfall"] = solution.shortfall
        metrics["saturated"] = solution.saturated
        metrics["solver_iterations"] = solution.num_iterations
    metrics = {f"estep/{name}": Metric.of(value) for name, value in reductions.detach(metrics).items()}
    return Target(reductions.detach(weights), dual_loss, metrics)


def _log_partition_bias(spec: GempiSpec, weights: Array, selected: Array, axis_name: AxisName) -> Float[Array, ""]:
    """-chi^2 / (2 k) of the scope; the mean over groups, as log Z-hat is."""
    if spec.scope is not Scope.GROUP:
        return diagnostics.log_partition_bias(weights, where=selected, axis_name=axis_name)
    of_group = diagnostics.log_partition_bias(weights, where=selected, axis=-1)
    return reductions.mean(of_group, where=jnp.any(weights > 0, axis=-1), axis_name=axis_name)


def _sample_metrics(
    spec: GempiSpec, batch: _Batch, log_weights: Array, weights: Array, selected: Array, axis_name: AxisName
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
        "invalid_samples": batch.invalid,
    }
    if spec.weight_clip is not None:
        clipped = reductions.count(selected & (log_weights > jnp.log(spec.weight_clip)), axis_name=axis_name)
        values["clip_fraction"] = clipped.astype(jnp.float32) / jnp.maximum(number, 1.0)
    return values


def _anchor_metrics(
    spec: GempiSpec,
    batch: _Batch,
    coefficients: Array,
    log_weights: Array,
    weights: Array,
    log_z: Array,
    selected: Array,
    axis_name: AxisName,
) -> dict[str, Array]:
    """Price, divergence and use of the budget of every anchor; means over groups when the scope is the group."""
    # sum w (l - r_j) - log Z-hat; with weights of 1/G by group both are means over groups.
    gaps = jnp.where((weights > 0)[None], log_weights[None] - batch.log_ratios, 0.0)
    kls = reductions.sum(weights[None] * gaps, axis=tuple(range(1, gaps.ndim)), axis_name=axis_name) - log_z
    spent = kls if spec.closed_form else _spent(spec, batch, log_weights, selected, axis_name)
    values = {}
    for j, anchor in enumerate(spec.anchors):
        values[f"coefficient/{anchor.policy}"] = coefficients[j]
        values[f"kl/{anchor.policy}"] = kls[j]
        name = "kl" if anchor.divergence is KL else anchor.divergence.name
        values[f"{name}/{anchor.policy}"] = spent[j]
        if anchor.budget is not None:
            values[f"{name}_over_budget/{anchor.policy}"] = spent[j] / anchor.budget
    return values
