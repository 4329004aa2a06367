"""Weights of the target distribution (22): filter, temperatures, log-weights, the dual, diagnostics."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.contracts import Samples
from gempi_jax.em import diagnostics, mixture
from gempi_jax.em.batch import Batch
from gempi_jax.em.choices import Dual, Fixed, Identity, Scope, Score, TopK
from gempi_jax.em.duals import MINIMUM, temperature_dual
from gempi_jax.em.filtering import select
from gempi_jax.em.metrics import anchor_metrics, sample_metrics, scope_metrics, truncation
from gempi_jax.em.spec import GempiSpec
from gempi_jax.em.target import sampled_divergences, target_log_weights
from gempi_jax.em.temperature import TemperatureSolution, solve_temperature
from gempi_jax.em.weightings import Weighted
from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import LARGEST
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array, Duals


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
    spec: GempiSpec, duals: Duals, batch: Batch, selected: Bool[Array, "*E"], axis_name: AxisName
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


def _filter(spec: GempiSpec, duals: Duals, batch: Batch, rewards: Array | None, axis_name: AxisName):
    """S; by log-weight it needs a temperature first, which is then solved on all real samples."""
    log_weights = batch.advantages
    if isinstance(spec.filter, TopK) and spec.filter.score is Score.LOG_WEIGHT:
        first, _ = _coefficients(spec, duals, batch, batch.where, axis_name)
        log_weights, _ = _log_weights(spec, batch, first, batch.where, axis_name)
        options = {"axis": spec.scope_axis, "axis_name": axis_name if spec.scope_axis is None else None}
        # log q*/b, which samples of different scopes share.
        log_weights = log_weights - mixture.log_partition(log_weights, where=batch.where, keepdims=True, **options)
    tie_break = None if rewards is None else reductions.detach(rewards)
    return select(spec.filter, batch.advantages, log_weights, where=batch.where, rewards=tie_break, axis_name=axis_name)


def _log_weights(
    spec: GempiSpec, batch: Batch, coefficients: Float[Array, "m"], where: Bool[Array, "*E"], axis_name: AxisName
) -> tuple[Float[Array, "*E"], Float[Array, "..."]]:
    """l_i minus a shift that samples of one scope share, and the shift: their best advantage over Lambda for KL.

    In closed form for KL; otherwise (22) solved on the samples of the scope, with log Z-hat = 0 and no shift.
    """
    if not spec.anchors:
        return jnp.zeros_like(batch.advantages), jnp.zeros(())
    options = {"where": where, "axis": spec.scope_axis, "axis_name": axis_name}
    data = batch.advantages, batch.log_ratios, coefficients
    if not spec.closed_form:
        return target_log_weights(*data, spec.divergences, **options), jnp.zeros(())
    log_weights, best = mixture.relative_log_weights(*data, **options)
    return log_weights, best / jnp.sum(coefficients)


def _spent(spec: GempiSpec, batch: Batch, log_weights: Array, selected: Array, axis_name: AxisName) -> Array:
    """D_j(q || pi_j) [m]; one that overflows, as where no selected sample is likely under an anchor, is 1e30."""
    spent = sampled_divergences(
        log_weights, batch.log_ratios, spec.divergences, where=selected, axis=spec.scope_axis, axis_name=axis_name
    )
    return jnp.minimum(spent, 1e30)


def _dual_loss(
    spec: GempiSpec, coefficients: Array, batch: Batch, log_weights: Array, selected: Array, axis_name: AxisName
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
    weights = diagnostics.scoped(log_weights, where=selected, axis=axis, axis_name=axis_name).weights
    gain = reductions.sum(weights * batch.advantages, axis_name=axis_name)
    # max over q of E_q[A] - lambda . (D - eps): by the envelope its derivative in lambda leaves q alone.
    return reductions.detach(gain) + jnp.dot(coefficients, budgets - reductions.detach(spent)) - without


def _weights(spec: GempiSpec, log_weights: Array, normalized: Array, selected: Array, number: Array) -> Array:
    """Normalised over the batch, to 1/G by group, or min(exp(l), clip) / N."""
    if spec.scope is Scope.UNNORMALIZED:
        # exp overflows beyond 88 nats; what is beyond is a weight that a clip should have caught.
        bounded = jnp.minimum(log_weights, 80.0 if spec.weight_clip is None else jnp.log(spec.weight_clip))
        return jnp.where(selected, jnp.exp(jnp.where(selected, bounded, 0.0)), 0.0) / jnp.maximum(number, 1.0)
    return normalized


def tilted(spec: GempiSpec, duals: Duals, samples: Samples, batch: Batch, axis_name: AxisName) -> Weighted:
    """Weights of q*, the dual's value, and ``estep/*``."""
    selected = _filter(spec, reductions.detach(duals), batch, samples.rewards, axis_name)
    coefficients, solution = _coefficients(spec, duals, batch, selected, axis_name)
    log_weights, shift = _log_weights(spec, batch, reductions.detach(coefficients), selected, axis_name)
    selected, log_weights = jax.lax.optimization_barrier((selected, log_weights))
    scope = diagnostics.scoped(log_weights, where=selected, axis=spec.scope_axis, axis_name=axis_name)
    weights = _weights(spec, log_weights + shift, scope.weights, selected, batch.number)
    shares = scope.weights
    if spec.scope is Scope.UNNORMALIZED:
        total = reductions.sum(weights, axis_name=axis_name)
        shares = weights / jnp.where(total > 0, total, 1.0)
    dual_loss = _dual_loss(spec, coefficients, batch, log_weights, selected, axis_name)
    coefficients = reductions.detach(coefficients)
    kls = scope.kl(batch.log_ratios)
    spent = kls if spec.closed_form else _spent(spec, batch, log_weights, selected, axis_name)
    metrics = {
        **sample_metrics(spec, batch, log_weights + shift, shares, selected, axis_name),
        **scope_metrics(spec, scope, shift, selected, axis_name),
        **anchor_metrics(spec, coefficients, kls, spent),
        "temperature": jnp.sum(coefficients),
    }
    if not isinstance(spec.filter, Identity):
        whole = log_weights
        if not spec.closed_form:
            whole, _ = _log_weights(spec, batch, coefficients, batch.where, axis_name)
        metrics["truncation_mass"] = truncation(spec, batch, whole, selected, axis_name)
    return {"weights": weights}, dual_loss, metrics | _temperature_metrics(spec, duals, solution)


def _temperature_metrics(spec: GempiSpec, duals: Duals, solution: TemperatureSolution | None) -> dict[str, Array]:
    """Whether budgets can be met, and what among the duals is no temperature."""
    metrics = {}
    if isinstance(spec.temperature, Dual):
        given = duals["temperature"]
        metrics["invalid_duals"] = jnp.sum(~((given > 0) & (given < jnp.inf)))
    if solution is not None:
        metrics["feasible"] = solution.feasible
        metrics["shortfall"] = solution.shortfall
        metrics["saturated"] = solution.saturated
        metrics["solver_iterations"] = solution.num_iterations
    return metrics
