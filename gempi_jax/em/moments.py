"""Samples as the solver of the temperatures wants them, and what it needs of them: one pass over the data per point."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gempi_jax.em.diagnostics import anchor_kl
from gempi_jax.em.mixture import over_anchors, relative_log_weights, weighted_sum
from gempi_jax.em.solver import Landscape, Slope
from gempi_jax.numerics import masked, reductions
from gempi_jax.numerics.checks import LARGEST
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array

ABSENT = -1e15
"""The advantage of a sample that is not there: exp gives 0, and 0 times it stays 0."""

_THINNING = 8
_SMALLEST_PART = 8_192
"""Every eighth sample of a large batch (of each device's part) makes a part with nearly the same solution, down to
parts of this size.  Eight, because the error of a part, a few of its sqrt(1 / samples), is then squared to below the
tolerance by one Newton step on the whole: two passes over it instead of three."""

_LOWEST = -1e7
"""Below every log-weight that counts, and above those of absent samples."""


class Problem(NamedTuple):
    """Advantages at most 0, log-ratios centred by scope, absent samples far below.

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


Tilt = Callable[[Array, Array], tuple[Array, list[Array]]]
"""(advantages [*E], log_ratios [m, *E]) -> log-weights [*E], and the [m] directions whose moments are wanted."""


def _sums(log_weights, directions, axis):
    """The largest log-weight, and sums of 1, d_j and d_j d_i under exp(l - largest)."""

    def add(x):
        return jnp.sum(x, axis=axis, keepdims=axis is not None)

    top = jnp.maximum(jnp.max(log_weights, axis=axis, keepdims=axis is not None), _LOWEST)
    # The barrier keeps the exponential from being computed again in every sum.
    terms = jax.lax.optimization_barrier(jnp.exp(log_weights - top))
    # One sum for each pair: the array of all products at once would not stay in the cache.
    first = [add(terms * direction) for direction in directions]
    pairs = [add(terms * d * other) for j, d in enumerate(directions) for other in directions[j:]]
    return top, jnp.stack([add(terms), *first, *pairs])


def moments(tilt: Tilt, problem: Problem) -> tuple[Array, Array, Array]:
    """log Z-hat, and the mean [m] and covariance [m, m] of the directions under the weights; means over groups."""
    within, groups = (problem.axis_name, None) if problem.axis is None else (None, problem.axis_name)
    local, sums = _sums(*tilt(problem.advantages, problem.log_ratios), problem.axis)
    top = reductions.max(local, axis=(), axis_name=within)
    sums = reductions.sum(sums * jnp.exp(local - top)[None], axis=(), axis_name=within)
    count = jnp.maximum(reductions.count(problem.live, axis_name=groups), 1).astype(sums.dtype)

    def over_groups(x):
        return reductions.sum(x, axis_name=groups) / count

    live, number = problem.live.reshape(top.shape), problem.number.reshape(top.shape)
    share = jnp.where(live, 1.0 / jnp.where(live, sums[0], 1.0), 0.0)
    log_z = jnp.where(live, jnp.log(jnp.where(live, sums[0], 1.0) / number) + top, 0.0)
    size = problem.log_ratios.shape[0]
    means = [sums[1 + j] * share for j in range(size)]
    pairs = iter(sums[1 + size :])
    entries = {
        (j, i): over_groups(next(pairs) * share - means[j] * means[i]) for j in range(size) for i in range(j, size)
    }
    covariance = [[entries[min(j, i), max(j, i)] for i in range(size)] for j in range(size)]
    return over_groups(log_z), jnp.stack([over_groups(x) for x in means]), jnp.asarray(covariance)


def dual_slope(coefficients: Array, budgets: Array, problem: Problem) -> Slope:
    """eps - KL and Cov_w(r_j - l, r_l - l) / Lambda; ``budgets`` are shifted by the centres of the log-ratios."""
    total = jnp.sum(coefficients)

    def tilt(advantages, log_ratios):
        log_weights = jax.lax.optimization_barrier((advantages + weighted_sum(coefficients, log_ratios)) / total)
        return log_weights, [ratio - log_weights for ratio in log_ratios]

    log_z, means, covariance = moments(tilt, problem)
    return Slope(budgets + means + log_z, covariance / total)


def overlap(shares: Array, budgets: Array, problem: Problem) -> tuple[Array, Slope]:
    """log mean exp(sum_j s_j r_ij) + sum_j s_j eps_j, whose minimum over the simplex is minus the shortfall."""

    def tilt(advantages, log_ratios):
        log_weights = jnp.where(advantages > ABSENT, weighted_sum(shares, log_ratios), ABSENT)
        return log_weights, list(log_ratios)

    log_z, means, covariance = moments(tilt, problem)
    return log_z + jnp.dot(shares, budgets), Slope(budgets + means, covariance)


def is_large(advantages: Array, axis: int | None) -> bool:
    """Whether a batch is worth a start from the solution of a part of it."""
    return axis is None and advantages.size >= _THINNING * _SMALLEST_PART


def thin(x: Array, leading: int = 0) -> Array:
    """Every eighth sample, in one axis after the ``leading`` ones."""
    return x.reshape(*x.shape[:leading], -1)[..., ::_THINNING]


def _part(problem: Problem) -> Problem:
    """Every eighth sample of a large batch."""
    advantages, log_ratios = thin(problem.advantages), thin(problem.log_ratios, 1)
    here = advantages > ABSENT
    number = jnp.maximum(reductions.count(here, axis_name=problem.axis_name), 1).astype(advantages.dtype).reshape(1)
    return Problem(advantages, log_ratios, number, (number > 1) & problem.live.reshape(1), None, problem.axis_name)


def usable(advantages, log_ratios, where) -> tuple[Array, Array]:
    """Samples without an undefined number, and those among them that every anchor can produce."""
    mask = over_anchors(
        lambda kept, ratio: kept & (ratio < LARGEST), log_ratios, where & (jnp.abs(advantages) < LARGEST)
    )
    return mask, over_anchors(lambda kept, ratio: kept & (ratio > -LARGEST), log_ratios, mask)


def below_best(advantages, support, axis, axis_name) -> tuple[Array, Array, Array]:
    """Advantages minus the best of their scope, whether it has one, and their standard deviation over the batch."""
    within = axis_name if axis is None else None
    best = reductions.max(advantages, where=support, axis=axis, axis_name=within, keepdims=True)
    live = best > -jnp.inf
    below = jnp.where(support, advantages - jnp.where(live, best, 0.0), 0.0)
    support, below = jax.lax.optimization_barrier((support, below))
    variance = masked.variance(below, where=support, axis_name=axis_name)
    return below, live, jnp.where(variance > 0, jnp.sqrt(variance), 1.0)


def prepare(advantages, log_ratios, where, axis, axis_name) -> tuple[Problem, Array, Array]:
    """The problem, the unit of its advantages, and what centring the log-ratios adds to the budgets [m]."""
    mask, support = usable(advantages, log_ratios, where)
    below, live, unit = below_best(advantages, support, axis, axis_name)
    within, groups = (axis_name, None) if axis is None else (None, axis_name)

    def over_scope(x, axes):
        return reductions.sum(jnp.sum(x, axis=axes, keepdims=True), axis=(), axis_name=within)

    number = jnp.maximum(over_scope(mask.astype(below.dtype), axis), 1.0)
    present = jnp.maximum(over_scope(support.astype(below.dtype), axis), 1.0)
    ratios = jnp.where(support[None], log_ratios, 0.0)
    inside = tuple(range(1, ratios.ndim)) if axis is None else (axis % advantages.ndim + 1,)
    centres = over_scope(ratios, inside) / present[None]
    centred = jnp.where(support[None], ratios - centres, 0.0)
    count = jnp.maximum(reductions.count(live, axis_name=groups), 1).astype(below.dtype)
    offset = reductions.sum(centres, axis=tuple(range(1, centres.ndim)), axis_name=groups) / count
    scaled = jnp.where(support, below / unit, ABSENT)
    axis = None if axis is None else axis % advantages.ndim
    return Problem(scaled, centred, number, live, axis, axis_name), unit, offset


def kl_landscape(advantages, log_ratios, where, axis, axis_name) -> Landscape:
    """(25) where every D_j is KL: its target (23) is in closed form, so a slope is one pass over the data."""
    problem, unit, offset = prepare(advantages, log_ratios, where, axis, axis_name)

    def of(problem):
        return Landscape(
            slope=lambda coefficients, budgets: dual_slope(coefficients, budgets + offset, problem),
            overlap=lambda shares, budgets: overlap(shares, budgets + offset, problem),
            part=of(_part(problem)) if is_large(problem.advantages, problem.axis) else None,
            stiffness=jnp.ones(log_ratios.shape[:1], advantages.dtype),
            unit=unit,
        )

    return of(problem)


def kl_change(coefficients, advantages, log_ratios, where, axis, axis_name, tangents) -> Array:
    """How the KLs [m] move with advantages and log-ratios at fixed coefficients."""

    def kl_of(advantages, log_ratios):
        options = {"where": where, "axis": axis, "axis_name": axis_name}
        log_weights, _ = relative_log_weights(advantages, log_ratios, coefficients, **options)
        return anchor_kl(log_weights, log_ratios, **options)

    return jax.jvp(kl_of, (advantages, log_ratios), tangents)[1]
