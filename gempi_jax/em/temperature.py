"""Temperatures that solve (25): budgets in, coefficients out, and a certificate where no target can meet them."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from gempi_jax.em.mixture import expand
from gempi_jax.em.solver import Slope, barrier_newton, slack
from gempi_jax.numerics import reductions
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array

_FLOOR = 1e-6
"""Smallest total temperature, in standard deviations of the advantages: below it the best sample has all the mass."""


class TemperatureSolution(NamedTuple):
    """The minimiser of the dual.

    Attributes:
      coefficients: lambda_j >= 0, units of the advantages; 0 where the budget is slack.
      kl: KL-hat(q || pi_j) at the coefficients, nats.
      feasible: whether some target meets all budgets.
      shortfall: the smallest common raise of all budgets that makes them feasible, nats; 0 when they are.
      num_iterations: passes over the data.
      saturated: whether the budgets do not bind at all (as for eps >= log k): the best samples have all the mass.
    """

    coefficients: Float[Array, "m"]
    kl: Float[Array, "m"]
    feasible: Bool[Array, ""]
    shortfall: Float[Array, ""]
    num_iterations: Int[Array, ""]
    saturated: Bool[Array, ""]


class _Problem(NamedTuple):
    """Samples as the solver wants them: advantages at most 0, no infinities, mask and support apart."""

    advantages: Array
    log_ratios: Array
    where: Array
    support: Array
    axis: int | None
    axis_name: AxisName


def _moments(log_weights, directions, problem: _Problem):
    """log Z-hat, and the mean and covariance of ``directions`` [m, *E] under the weights; averaged over groups."""
    axis = problem.axis
    within = problem.axis_name if axis is None else None
    top = reductions.max(log_weights, where=problem.support, axis=axis, axis_name=within, keepdims=True)
    top = jnp.where(top > -jnp.inf, top, 0.0)
    terms = jnp.where(problem.support, jnp.exp(jnp.where(problem.support, log_weights - top, 0.0)), 0.0)

    def over_scope(x):
        return reductions.sum(jnp.sum(x, axis=axis, keepdims=True), axis=(), axis_name=within)

    total = over_scope(terms)
    number = over_scope(problem.where.astype(terms.dtype))
    some = total > 0
    safe_total = jnp.where(some, total, 1.0)
    log_z = jnp.where(some, jnp.log(safe_total) + top - jnp.log(jnp.maximum(number, 1.0)), 0.0)
    weights = terms / safe_total
    means = [over_scope(weights * direction) for direction in directions]
    centred = [direction - mean for direction, mean in zip(directions, means, strict=True)]
    covariance = [[jnp.sum(weights * a * b) for b in centred] for a in centred]

    groups = None if axis is None else problem.axis_name
    count = jnp.maximum(reductions.sum(some.astype(terms.dtype), axis_name=groups), 1.0)

    def over_groups(x):
        return reductions.sum(
            jnp.stack([jnp.sum(jnp.where(some, entry, 0.0)) for entry in x]), axis=(), axis_name=groups
        )

    size = len(directions)
    flat = jnp.stack([entry for row in covariance for entry in row])
    flat = reductions.sum(flat, axis=(), axis_name=problem.axis_name)
    return over_groups([log_z])[0] / count, over_groups(means) / count, flat.reshape(size, size) / count


def _dual_slope(coefficients, budgets, problem: _Problem) -> Slope:
    """eps - KL and Cov_w(r_j - l, r_l - l) / Lambda."""
    total = jnp.sum(coefficients)
    ratios = problem.log_ratios
    tilt = problem.advantages + jnp.sum(expand(coefficients, ratios) * ratios, axis=0)
    log_weights = tilt / total
    # Inside the covariance l is measured from the group's largest value, which cancels against log Z in the KL.
    log_z, means, covariance = _moments(log_weights, [ratio - log_weights for ratio in ratios], problem)
    return Slope(budgets + means + log_z, covariance / total)


def _overlap_slope(shares, budgets, problem: _Problem) -> Slope:
    """Of log mean exp(sum_j s_j r_ij) + sum_j s_j eps_j, whose minimum over the simplex is minus the shortfall."""
    ratios = problem.log_ratios
    log_weights = jnp.sum(expand(shares, ratios) * ratios, axis=0)
    _, means, covariance = _moments(log_weights, list(ratios), problem)
    return Slope(budgets + means, covariance)


def _overlap(shares, budgets, problem: _Problem):
    ratios = problem.log_ratios
    log_z, _, _ = _moments(jnp.sum(expand(shares, ratios) * ratios, axis=0), list(ratios), problem)
    return log_z + jnp.dot(shares, budgets)


def _certificate(budgets, problem: _Problem):
    """max over the simplex of -log Z-hat(s) - s . eps: positive exactly when no target meets the budgets (Chernoff)."""
    size = budgets.shape[0]
    start = jnp.full((size,), 1.0 / size, budgets.dtype)
    if size == 1:
        return -_overlap(start, budgets, problem), jnp.ones((), jnp.int32)
    found = barrier_newton(
        lambda shares: _overlap_slope(shares, budgets, problem),
        start,
        jnp.full((size,), jnp.min(budgets)),
        on_simplex=True,
    )
    corners = [-_overlap(corner, budgets, problem) for corner in jnp.eye(size, dtype=budgets.dtype)]
    inside = -_overlap(found.x / jnp.sum(found.x), budgets, problem)
    return jnp.maximum(inside, jnp.max(jnp.stack(corners))), found.num_iterations + size + 1


def _prepare(advantages, log_ratios, where, axis, axis_name):
    """The problem in units of the advantages' standard deviation, and that unit."""
    mask = jnp.ones(advantages.shape, bool) if where is None else where
    mask = mask & jnp.isfinite(advantages) & ~jnp.any(jnp.isnan(log_ratios), axis=0)
    support = mask & jnp.all(log_ratios > -jnp.inf, axis=0)
    within = axis_name if axis is None else None
    best = reductions.max(advantages, where=support, axis=axis, axis_name=within, keepdims=True)
    below = jnp.where(support, advantages - jnp.where(best > -jnp.inf, best, 0.0), 0.0)
    mean = reductions.mean(below, where=support, axis_name=axis_name)
    variance = reductions.mean(jnp.square(below - mean), where=support, axis_name=axis_name)
    unit = jnp.where(variance > 0, jnp.sqrt(variance), 1.0)
    ratios = jnp.where(support[None], log_ratios, 0.0)
    return _Problem(below / unit, ratios, mask, support, axis, axis_name), unit


def _solve(budgets, advantages, log_ratios, mask, axis, axis_name) -> TemperatureSolution:
    problem, unit = _prepare(advantages, log_ratios, mask, axis, axis_name)
    excess, passes = _certificate(budgets, problem)
    shortfall = jnp.maximum(excess, 0.0)
    feasible = shortfall <= 1e-6 + 1e-5 * jnp.min(budgets)
    # At the smallest raise the only target left ignores the advantages; a tenth of a budget more keeps lambda finite.
    effective = jnp.where(feasible, budgets, budgets + shortfall + 0.1 * jnp.min(budgets))
    start = 1.0 / jnp.sqrt(2.0 * effective) / budgets.shape[0]
    found = barrier_newton(lambda x: _dual_slope(x, effective, problem), start, effective, floor=_FLOOR)
    idle = slack(found)
    scaled = jnp.where(idle, 0.0, found.x)
    total = jnp.sum(scaled)
    scaled = jnp.where(total < _FLOOR, found.x * (_FLOOR / jnp.sum(found.x)), scaled)
    kl = effective - _dual_slope(scaled, effective, problem).gradient
    return TemperatureSolution(
        scaled * unit, kl, feasible, shortfall, found.num_iterations + passes + 1, jnp.sum(scaled) <= 1.01 * _FLOOR
    )


def solve_temperature(
    budgets: Float[Array, "m"],
    advantages: Float[Array, "*E"],
    anchor_log_ratios: Float[Array, "m *E"],
    *,
    where: Bool[Array, "*E"] | None = None,
    axis: int | None = None,
    axis_name: AxisName = None,
) -> TemperatureSolution:
    """Minimises (25) over lambda >= 0: the KL-constrained E-step with all its constraints met.

    Args:
      budgets: eps_j > 0, nats.
      advantages: A_i.
      anchor_log_ratios: r_ij = log pi_j(y_i) - log b(y_i), nats; -inf means no mass.
      where: the samples that are real and selected.
      axis: the samples of a group; ``None`` when the batch is one scope. Groups share the coefficients; ``jax.vmap``
        solves each on its own.
      axis_name: mapped axes over which the samples (``axis=None``) or the groups are spread.

    Returns:
      The solution; with infeasible budgets that of budgets raised by the shortfall and a tenth of the smallest budget.

    Raises:
      ValueError: without anchors, or with more than a few.
    """
    size = budgets.shape[0]
    if not 1 <= size <= 8:
        raise ValueError(
            f"{size} budgets: temperatures are solved for 1 to 8 anchors; a method without anchors has none."
        )
    mask = jnp.ones(advantages.shape, bool) if where is None else where
    return _solve(budgets, advantages, anchor_log_ratios, mask, axis, axis_name)
