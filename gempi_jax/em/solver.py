"""Solved temperatures: (25) minimised to tolerance inside an E-step, for a few anchors, within a fixed bound of passes.

Every step of the solver is one pass over the data that yields the gradient eps - KL and the Hessian
Cov_w(r_j - l, r_l - l) / Lambda.  A primal-dual barrier Newton keeps lambda positive, lets slack budgets go to
lambda_j = 0, and takes its step lengths from slopes, which float32 still resolves where values no longer differ.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from gempi_jax.types import Array

MAX_ITERATIONS = 50
"""Bound on the passes of one search."""


class Slope(NamedTuple):
    """Gradient [m] and Hessian [m, m] of a convex function at a point."""

    gradient: Float[Array, "m"]
    hessian: Float[Array, "m m"]


class Landscape(NamedTuple):
    """A dual as the search for its minimum sees it; coefficients in units of the advantages' standard deviation.

    Attributes:
      slope: (coefficients, budgets) -> gradient eps - D and Hessian, one target and a pass over the data.
      overlap: (shares on the simplex, budgets) -> s . eps - min_q sum_j s_j D_j(q || pi_j), and its slope.
      part: the dual of a part of a large batch, to start from its minimum; ``None`` for a batch that is not large.
      stiffness: f_j''(1): near q = pi_j, D_j is half of it times chi^2.
      unit: the standard deviation.
    """

    slope: Callable[[Array, Array], Slope]
    overlap: Callable[[Array, Array], tuple[Array, Slope]]
    part: "Landscape | None"
    stiffness: Float[Array, "m"]
    unit: Float[Array, ""]


class Minimum(NamedTuple):
    """Where a convex function is smallest over x >= 0.

    Attributes:
      x: the minimiser.
      z: the multipliers of x >= 0; positive where a coordinate is at 0.
      slope: gradient and Hessian there.
      num_iterations: passes over the data.
      settled: whether it is one, to tolerance or because all of it is below the floor.
    """

    x: Float[Array, "m"]
    z: Float[Array, "m"]
    slope: Slope
    num_iterations: Int[Array, ""]
    settled: Bool[Array, ""]


class _State(NamedTuple):
    """Where the search stands, and the trial point that the next pass evaluates."""

    x: Array
    z: Array
    slope: Slope
    step: Array
    length: Array
    barrier: Array
    descent: Array
    residual: Array
    count: Array


def inverse_small(matrix: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """Inverse of a symmetric positive matrix of a few rows, unrolled: no library call inside mapped code."""
    size = matrix.shape[0]
    rows = jnp.concatenate([matrix, jnp.eye(size, dtype=matrix.dtype)], axis=1)
    for i in range(size):
        pivot = rows[i] / rows[i, i]
        rows = (rows - rows[:, i, None] * pivot[None]).at[i].set(pivot)
    return rows[:, size:]


def _direction(x, z, slope: Slope, barrier, on_simplex: bool):
    """The Newton step of grad - barrier / x, in units of x; on the simplex the step keeps the sum."""
    scaled = slope.hessian * x[:, None] * x[None, :] + jnp.diag(x * z)
    scaled = scaled + jnp.diag(1e-6 * jnp.diag(scaled) + 1e-30)
    inverse = inverse_small(scaled)
    step = inverse @ (barrier - slope.gradient * x)
    if on_simplex:
        drift = inverse @ x
        step = step - drift * (jnp.dot(x, step) / jnp.dot(x, drift))
    return step


def _longest(x, change, share):
    """The largest length at which x + length * change keeps all but ``share`` of x."""
    return jnp.min(jnp.where(change < 0, -share * x / jnp.where(change < 0, change, -1.0), jnp.inf))


def _residual(x, z, gradient, scale):
    """The largest violation of grad = z, relative to both, and of min(x, z) = 0, in units of the sum and ``scale``."""
    # Sums of a few hundred thousand float32 terms leave about 5e-7 of noise in a KL of any size.
    mismatch = jnp.maximum(jnp.abs(gradient - z) - 5e-7, 0.0) / (scale + z)
    return jnp.maximum(jnp.max(mismatch), jnp.max(jnp.minimum(x / jnp.sum(x), z / scale)))


def _advance(state: _State, scale, on_simplex: bool) -> _State:
    """From an accepted point: the next barrier, direction and full length."""
    barrier = 0.05 * jnp.mean(state.x * state.z)
    step = _direction(state.x, state.z, state.slope, barrier, on_simplex)
    # A coordinate may shrink tenfold or grow eightfold at once: the model is not trusted further.
    length = jnp.minimum(_longest(jnp.ones_like(step), step, 0.9), 8.0 / jnp.maximum(jnp.max(step), 1e-30))
    descent = jnp.abs(jnp.dot(state.slope.gradient * state.x - barrier, step))
    residual = _residual(state.x, state.z, state.slope.gradient, scale)
    return state._replace(
        step=step, length=jnp.minimum(1.0, length), barrier=barrier, descent=descent, residual=residual
    )


def _accepted(state: _State, trial, slope: Slope, scale, multipliers, on_simplex: bool) -> _State:
    """Moves to the trial point and takes the multipliers along: z dx + x dz = barrier - x z."""
    change = state.barrier / state.x - state.z - state.z * state.step
    z = state.z + jnp.minimum(1.0, _longest(state.z, change, 0.95)) * change
    first = jnp.maximum(slope.gradient, 0.1 * scale) if multipliers is None else multipliers
    z = jnp.where(state.count == 0, first, z)
    return _advance(state._replace(x=trial, z=z, slope=slope), scale, on_simplex)


def barrier_newton(
    oracle: Callable[[Array], Slope],
    start: Float[Array, "m"],
    scale: Float[Array, "m"],
    *,
    multipliers: Float[Array, "m"] | None = None,
    on_simplex: bool = False,
    floor: float = 1e-7,
    ceiling: float = jnp.inf,
    tolerance: float = 2e-5,
    max_iterations: int | Int[Array, ""] = MAX_ITERATIONS,
) -> Minimum:
    """Minimises a convex function over x >= 0, or over the simplex.

    Args:
      oracle: x -> gradient and Hessian, one pass over the data.
      start: a point with positive coordinates (on the simplex: with sum 1).
      scale: the size of gradients that matter, by coordinate.
      multipliers: z at the start, where a similar problem was solved before; by the gradient when ``None``.
      on_simplex: keeps sum x = 1; the slope's gradient is then relative to its mean under x.
      floor: stops where all coordinates are below it.
      ceiling: gives up where one is above it.
      tolerance: of the optimality conditions, in units of ``scale``.
      max_iterations: bound on the passes.
    """

    def unfinished(state):
        largest = jnp.max(state.x)
        return (state.count < max_iterations) & (state.residual > tolerance) & (largest > floor) & (largest < ceiling)

    def iterate(state):
        trial = state.x * (1.0 + state.length * state.step)
        trial = trial / jnp.sum(trial) if on_simplex else trial
        slope = oracle(trial)
        if on_simplex:
            # Only differences of the gradient count; the common level would drown small coordinates in rounding.
            slope = slope._replace(gradient=slope.gradient - jnp.dot(trial, slope.gradient))
        uphill = jnp.dot(slope.gradient * state.x - state.barrier * state.x / trial, state.step)
        # Convex along the step: a slope that has not turned round to half its size is near enough to the minimum.
        accept = (state.count == 0) | (uphill <= 0.5 * state.descent)
        moved = _accepted(state, trial, slope, scale, multipliers, on_simplex)
        secant = jnp.clip(state.descent / jnp.maximum(state.descent + uphill, 1e-30), 0.1, 0.5)
        stayed = state._replace(length=state.length * secant)
        chosen = jax.tree.map(lambda new, old: jnp.where(accept, new, old), moved, stayed)
        return chosen._replace(count=state.count + 1)

    size = start.shape[0]
    zero, nothing = jnp.zeros_like(start), jnp.zeros_like(start[0])
    first = _State(
        start,
        jnp.ones_like(start),
        Slope(zero, jnp.zeros((size, size), start.dtype)),
        zero,
        nothing,
        nothing,
        nothing,
        nothing + jnp.inf,
        jnp.zeros((), jnp.int32),
    )
    last = jax.lax.while_loop(unfinished, iterate, first)
    vanished = (jnp.max(last.x) <= floor) & jnp.all(last.slope.gradient > 0)
    settled = (last.residual <= tolerance) | vanished
    return Minimum(last.x, last.z, last.slope, last.count, settled)


def resume(minimum: Minimum, scale: Float[Array, "m"]) -> tuple[Array, Array]:
    """A start for a similar problem: a little inside, where a coordinate at its bound can still leave it."""
    x, z = jnp.maximum(minimum.x, 1e-4 * jnp.sum(minimum.x)), jnp.maximum(minimum.z, 1e-4 * scale)
    return x, z


def slack(minimum: Minimum) -> Bool[Array, "m"]:
    """Coordinates at 0: their share of x is small against their share of the multipliers."""
    x, z = minimum.x / jnp.sum(minimum.x), minimum.z / jnp.maximum(jnp.sum(minimum.z), 1e-30)
    return (x < 1e-3) & (z > x)
