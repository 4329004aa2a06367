"""The convex dual of the temperatures, (25), and its gradient in closed form."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.em.checks import samples_agree
from gempi_jax.em.diagnostics import Scoped, scoped
from gempi_jax.em.mixture import expand, relative_log_weights
from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import known_values
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array, Duals

MINIMUM = 1e-8
"""Duals are projected to at least this after every gradient step (V-MPO, section 4)."""


def project_duals(duals: Duals, minimum: float = MINIMUM) -> Duals:
    """Keeps temperatures and multipliers positive: max(dual, minimum), after every gradient step on them."""
    return jax.tree.map(lambda dual: jnp.maximum(dual, minimum), duals)


def temperature_dual(
    coefficients: Float[Array, "m"],
    budgets: Float[Array, "m"],
    advantages: Float[Array, "*E"],
    anchor_log_ratios: Float[Array, "m *E"],
    *,
    where: Bool[Array, "*E"] | None = None,
    axis: int | None = None,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    """L(lambda) = sum_j lambda_j eps_j + Lambda log Z-hat(lambda), (25) on samples; jointly convex in lambda.

    With one anchor that is the sampler it is V-MPO's temperature loss (28).  By groups the second term is the mean over
    groups of Lambda log Z-hat(x).  The gradient in the coefficients is eps_j - KL-hat(q || pi_j) in closed form, equal
    on every device without another reduction, whatever maps the devices.

    Args:
      coefficients: lambda_j > 0, units of the advantages.
      budgets: eps_j, nats.
      advantages: A_i.
      anchor_log_ratios: r_ij = log pi_j(y_i) - log b(y_i), nats; -inf means no mass.
      where: the samples that are real and selected (the same set as in the weights).
      axis: the samples of a group; ``None`` when the batch is one scope.
      axis_name: mapped axes over which the samples (``axis=None``) or the groups are spread.

    Raises:
      ValueError: where shapes disagree; for coefficients or budgets known before tracing that are not positive.
    """
    samples_agree("temperature_dual", advantages, anchor_log_ratios, coefficients, where)
    samples_agree("temperature_dual", advantages, anchor_log_ratios, budgets)
    known_values("temperature_dual", coefficients, "coefficients must be positive", lambda values: (values > 0).all())
    known_values("temperature_dual", budgets, "budgets, in nats, must be positive", lambda values: (values > 0).all())
    mask = jnp.ones(advantages.shape, bool) if where is None else where
    return _dual(coefficients, budgets, advantages, anchor_log_ratios, mask, axis, axis_name)


@functools.partial(jax.custom_jvp, nondiff_argnums=(5, 6))
def _dual(coefficients, budgets, advantages, log_ratios, mask, axis, axis_name):
    scope, best = _scope(coefficients, advantages, log_ratios, mask, axis, axis_name)
    gain = jnp.sum(coefficients) * scope.log_partition + jnp.where(scope.live, best, 0.0)
    return jnp.dot(coefficients, budgets) + scope.over_scopes(gain)


def _scope(coefficients, advantages, log_ratios, mask, axis, axis_name) -> tuple[Scoped, Array]:
    """The target at the coefficients, relative to the best advantage A* of each scope, and A*."""
    options = {"where": mask, "axis": axis, "axis_name": axis_name}
    log_weights, best = relative_log_weights(advantages, log_ratios, coefficients, **options)
    return scoped(log_weights, **options), best


@_dual.defjvp
def _dual_jvp(axis, axis_name, primals, tangents):
    coefficients, budgets, advantages, log_ratios, mask = primals
    d_coefficients, d_budgets, d_advantages, d_ratios, _ = tangents
    scope, _ = _scope(coefficients, advantages, log_ratios, mask, axis, axis_name)
    # By the envelope, dL/dA_i = w_i and dL/dr_ij = lambda_j w_i.
    d_tilt = d_advantages + jnp.sum(expand(coefficients, d_ratios) * d_ratios, axis=0)
    through_data = reductions.sum(jnp.where(scope.weights > 0, scope.weights * d_tilt, 0.0), axis_name=axis_name)
    value = _dual(coefficients, budgets, advantages, log_ratios, mask, axis, axis_name)
    through_prices = jnp.dot(budgets - scope.kl(log_ratios), d_coefficients)
    return value, through_prices + jnp.dot(coefficients, d_budgets) + through_data
