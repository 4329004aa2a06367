"""Temperatures that solve (25): budgets in, coefficients out, and a certificate where no target can meet them."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from gempi_jax.em.diagnostics import anchor_kl
from gempi_jax.em.mixture import log_weights_from_ratios
from gempi_jax.em.solver import Slope, barrier_newton, inverse_small, resume, slack
from gempi_jax.numerics import masked, reductions
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array

_FLOOR = 1e-6
"""Smallest total temperature, in standard deviations of the advantages: below it the best sample has all the mass."""


_THINNED = 16_384
"""Samples of a large batch (of each device's part) that the first rough solution looks at."""

_ABSENT = -1e15
"""The advantage of a sample that is not there: exp gives 0, and 0 times it stays 0."""


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
    """Samples as the solver wants them: advantages at most 0, log-ratios centred by scope, absent samples far below.

    Attributes:
      advantages: in units of their standard deviation, 0 for the best of a scope, -1e15 for what is masked.
      log_ratios: minus their mean over the scope, 0 for what is masked.
      number: k of the scope.
      live: whether the scope has a sample at all.
      axis: of the scope.
      axis_name: of the scope (``axis=None``) or of the groups.
    """

    advantages: Array
    log_ratios: Array
    number: Array
    live: Array
    axis: int | None
    axis_name: AxisName


def _moments(log_weights, directions, problem: _Problem):
    """log Z-hat, and the mean [m] and covariance [m, m] of ``directions`` [m, *E] under the weights, over groups."""
    axis = None if problem.axis is None else problem.axis % log_weights.ndim
    within, groups = (problem.axis_name, None) if axis is None else (None, problem.axis_name)

    def over_scope(x):
        return reductions.sum(jnp.sum(x, axis=axis, keepdims=True), axis=(), axis_name=within)

    def over_groups(x):
        return reductions.sum(x, axis_name=groups) / count

    top = reductions.max(log_weights, axis=axis, axis_name=within, keepdims=True)
    # The barrier keeps the exponential from being computed again in every sum.
    terms = jax.lax.optimization_barrier(jnp.exp(log_weights - top))
    total = over_scope(terms)
    share = jnp.where(problem.live, 1.0 / total, 0.0)
    log_z = jnp.where(problem.live, jnp.log(total / problem.number) + top, 0.0)
    count = jnp.maximum(reductions.count(problem.live, axis_name=groups), 1).astype(total.dtype)
    size = len(directions)
    means = [over_scope(terms * directions[j]) * share for j in range(size)]
    # One sum for each pair: the array of all products at once would not stay in the cache.
    entries = {
        (j, i): over_groups(over_scope(terms * directions[j] * directions[i]) * share - means[j] * means[i])
        for j in range(size)
        for i in range(j, size)
    }
    covariance = [[entries[min(j, i), max(j, i)] for i in range(size)] for j in range(size)]
    return over_groups(log_z), jnp.stack([over_groups(x) for x in means]), jnp.asarray(covariance)


def _mix(factors, ratios):
    """sum_j factors_j ratios_j, anchor by anchor: a reduction over so short an axis is slow on a CPU."""
    terms = [factors[j] * ratios[j] for j in range(ratios.shape[0])]
    return functools.reduce(jnp.add, terms)


def _dual_slope(coefficients, budgets, problem: _Problem) -> Slope:
    """eps - KL and Cov_w(r_j - l, r_l - l) / Lambda; ``budgets`` are shifted by the centres of the log-ratios."""
    total = jnp.sum(coefficients)
    ratios = problem.log_ratios
    log_weights = (problem.advantages + _mix(coefficients, ratios)) / total
    log_weights = jax.lax.optimization_barrier(log_weights)
    log_z, means, covariance = _moments(log_weights, [ratio - log_weights for ratio in ratios], problem)
    return Slope(budgets + means + log_z, covariance / total)


def _overlap(shares, budgets, problem: _Problem) -> tuple[Array, Slope]:
    """log mean exp(sum_j s_j r_ij) + sum_j s_j eps_j, whose minimum over the simplex is minus the shortfall."""
    ratios = problem.log_ratios
    log_weights = _mix(shares, ratios)
    log_weights = jnp.where(problem.advantages > _ABSENT, log_weights, _ABSENT)
    log_z, means, covariance = _moments(log_weights, list(ratios), problem)
    return log_z + jnp.dot(shares, budgets), Slope(budgets + means, covariance)


def _thinned(problem: _Problem) -> _Problem | None:
    """Every so-manieth sample of a large batch, to start from its solution; ``None`` for a batch that is not large."""
    stride = problem.advantages.size // _THINNED
    if problem.axis is not None or stride < 8:
        return None
    advantages = problem.advantages.reshape(-1)[::stride]
    ratios = problem.log_ratios.reshape(problem.log_ratios.shape[0], -1)[:, ::stride]
    here = advantages > _ABSENT
    number = jnp.maximum(reductions.count(here, axis_name=problem.axis_name), 1).astype(advantages.dtype).reshape(1)
    return _Problem(advantages, ratios, number, (number > 1) & problem.live.reshape(1), None, problem.axis_name)


def _certificate(budgets, offset, problem: _Problem):
    """max over the simplex of -log Z-hat(s) - s . eps: positive exactly when no target meets the budgets (Chernoff)."""
    size = budgets.shape[0]
    shares, passes = jnp.full((size,), 1.0 / size, budgets.dtype), 0
    shifted = budgets + offset
    if size > 1:
        scale = jnp.full((size,), jnp.min(budgets))
        multipliers = None
        if (part := _thinned(problem)) is not None:
            rough = barrier_newton(lambda s: _overlap(s, shifted, part)[1], shares, scale, on_simplex=True)
            shares, multipliers = resume(rough, scale)
            shares = shares / jnp.sum(shares)
        found = barrier_newton(
            lambda s: _overlap(s, shifted, problem)[1], shares, scale, multipliers=multipliers, on_simplex=True
        )
        shares = jnp.where(slack(found), 0.0, found.x)
        shares, passes = shares / jnp.sum(shares), found.num_iterations
    return -_overlap(shares, shifted, problem)[0], passes + 1


def _prepare(advantages, log_ratios, where, axis, axis_name) -> tuple[_Problem, Array, Array]:
    """The problem, the unit of its advantages, and what centring the log-ratios adds to the budgets [m]."""
    mask = where & jnp.isfinite(advantages) & ~jnp.any(jnp.isnan(log_ratios), axis=0)
    support = mask & jnp.all(log_ratios > -jnp.inf, axis=0)
    within, groups = (axis_name, None) if axis is None else (None, axis_name)

    def over_scope(x, axes):
        return reductions.sum(jnp.sum(x, axis=axes, keepdims=True), axis=(), axis_name=within)

    best = reductions.max(advantages, where=support, axis=axis, axis_name=within, keepdims=True)
    live = best > -jnp.inf
    below = jnp.where(support, advantages - jnp.where(live, best, 0.0), 0.0)
    variance = masked.variance(below, where=support, axis_name=axis_name)
    unit = jnp.where(variance > 0, jnp.sqrt(variance), 1.0)

    number = jnp.maximum(over_scope(mask.astype(below.dtype), axis), 1.0)
    present = jnp.maximum(over_scope(support.astype(below.dtype), axis), 1.0)
    ratios = jnp.where(support[None], log_ratios, 0.0)
    inside = tuple(range(1, ratios.ndim)) if axis is None else (axis % advantages.ndim + 1,)
    centres = over_scope(ratios, inside) / present[None]
    centred = jnp.where(support[None], ratios - centres, 0.0)
    count = jnp.maximum(reductions.count(live, axis_name=groups), 1).astype(below.dtype)
    offset = reductions.sum(centres, axis=tuple(range(1, centres.ndim)), axis_name=groups) / count
    problem = _Problem(jnp.where(support, below / unit, _ABSENT), centred, number, live, axis, axis_name)
    return problem, unit, offset


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5))
def _solve(budgets, advantages, log_ratios, mask, axis, axis_name) -> TemperatureSolution:
    problem, unit, offset = _prepare(advantages, log_ratios, mask, axis, axis_name)
    excess, passes = _certificate(budgets, offset, problem)
    feasible = excess <= 1e-6 + 1e-5 * jnp.min(budgets)
    shortfall = jnp.where(feasible, 0.0, excess)
    # At the smallest raise the only target left ignores the advantages; a tenth of a budget more keeps lambda finite.
    effective = jnp.where(feasible, budgets, budgets + shortfall + 0.1 * jnp.min(budgets))
    start = 1.0 / jnp.sqrt(2.0 * effective) / budgets.shape[0]
    multipliers = None
    if (part := _thinned(problem)) is not None:
        rough = barrier_newton(lambda x: _dual_slope(x, effective + offset, part), start, effective, floor=_FLOOR)
        start, multipliers = resume(rough, effective)
    found = barrier_newton(
        lambda x: _dual_slope(x, effective + offset, problem), start, effective, multipliers=multipliers, floor=_FLOOR
    )
    saturated = jnp.sum(found.x) <= _FLOOR * budgets.shape[0]
    kept = jnp.where(slack(found), 0.0, found.x)
    scaled = jnp.where(saturated, found.x * (_FLOOR / jnp.sum(found.x)), kept)
    kl = -_dual_slope(scaled, offset, problem).gradient
    iterations = found.num_iterations + passes + 1
    return TemperatureSolution(scaled * unit, kl, feasible, shortfall, iterations, saturated)


@_solve.defjvp
def _solve_jvp(axis, axis_name, primals, tangents):
    """Implicit differentiation of eps - KL(lambda, data) = 0 over the positive lambda: H d lambda = d KL - d eps."""
    budgets, advantages, log_ratios, mask = primals
    solution = _solve(budgets, advantages, log_ratios, mask, axis, axis_name)
    coefficients = solution.coefficients
    problem, unit, _ = _prepare(advantages, log_ratios, mask, axis, axis_name)

    def kl_of(advantages, log_ratios):
        log_weights = log_weights_from_ratios(advantages, log_ratios, coefficients)
        return anchor_kl(log_weights, log_ratios, where=mask, axis=axis, axis_name=axis_name)

    _, d_kl = jax.jvp(kl_of, (advantages, log_ratios), tangents[1:3])
    active = (coefficients > 0) & ~solution.saturated
    both = active[:, None] & active[None, :]
    hessian = _dual_slope(coefficients / unit, budgets, problem).hessian / unit
    reduced = jnp.where(both, hessian, jnp.eye(budgets.shape[0], dtype=budgets.dtype))
    step = inverse_small(reduced) @ jnp.where(active, d_kl - tangents[0], 0.0)
    moved = jax.tree.map(_no_tangent, solution)
    return solution, moved._replace(coefficients=step, kl=d_kl - jnp.where(both, hessian, 0.0) @ step)


def _no_tangent(x):
    return jnp.zeros_like(x) if jnp.issubdtype(x.dtype, jnp.floating) else np.zeros(x.shape, jax.dtypes.float0)


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

    Coefficients and KLs are differentiable by the implicit function theorem (raised budgets count as given); shortfall
    and flags are not differentiated.

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
