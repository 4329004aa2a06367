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


class Slope(NamedTuple):
    """Gradient [m] and Hessian [m, m] of a convex function at a point."""

    gradient: Float[Array, "m"]
    hessian: Float[Array, "m m"]


class Minimum(NamedTuple):
    """Where a convex function is smallest over x >= 0.

    Attributes:
      x: the minimiser.
      z: the multipliers of x >= 0; positive where a coordinate is at 0.
      num_iterations: passes over the data.
    """

    x: Float[Array, "m"]
    z: Float[Array, "m"]
    num_iterations: Int[Array, ""]


class _State(NamedTuple):
    x: Array
    z: Array
    slope: Slope
    damping: Array
    residual: Array
    count: Array


def solve_small(matrix: Float[Array, "m m"], vector: Float[Array, "m"]) -> Float[Array, "m"]:
    """matrix^-1 vector for a symmetric positive matrix of a few rows, unrolled: no library call inside mapped code."""
    size = matrix.shape[0]
    rows = jnp.concatenate([matrix, vector[:, None]], axis=1)
    for i in range(size):
        pivot = rows[i] / rows[i, i]
        rows = jnp.stack([pivot if j == i else rows[j] - rows[j, i] * pivot for j in range(size)])
    return rows[:, -1]


def _direction(state: _State, barrier, on_simplex: bool):
    """The Newton step of grad - barrier / x, in units of x; on the simplex the step keeps the sum."""
    x, z, (gradient, hessian) = state.x, state.z, state.slope
    scaled = hessian * x[:, None] * x[None, :] + jnp.diag(x * z)
    scaled = scaled + jnp.diag(1e-6 * jnp.diag(scaled) + 1e-30)
    step = solve_small(scaled, -(gradient * x - barrier))
    if on_simplex:
        drift = solve_small(scaled, x)
        step = step - drift * (jnp.dot(x, step) / jnp.dot(x, drift))
    return step


def barrier_newton(
    oracle: Callable[[Array], Slope],
    start: Float[Array, "m"],
    scale: Float[Array, "m"],
    *,
    on_simplex: bool = False,
    floor: float = 1e-7,
    tolerance: float = 5e-6,
    max_iterations: int = 50,
) -> Minimum:
    """Minimises a convex function over x >= 0, or over the simplex.

    Args:
      oracle: x -> gradient and Hessian, one pass over the data.
      start: a point with positive coordinates (on the simplex: their sum is kept).
      scale: the size of gradients that matter, by coordinate.
      on_simplex: keeps the sum of x.
      floor: stops where all coordinates are below it.
      tolerance: of the optimality conditions, in units of ``scale``.
      max_iterations: bound on the passes.
    """

    def residual_of(x, z, gradient):
        if on_simplex:
            gradient = gradient - jnp.dot(x, gradient - z) / jnp.sum(x)
        gap = x * z / jnp.sum(x)
        # Sums of a few hundred thousand float32 terms leave about 2e-7 of noise in a KL of any size.
        return jnp.max(jnp.maximum(jnp.maximum(jnp.abs(gradient - z) - 2e-7, 0.0), gap) / scale)

    def unfinished(state):
        return (state.count < max_iterations) & (state.residual > tolerance) & (jnp.max(state.x) > floor)

    def iterate(state):
        x, z, gradient = state.x, state.z, state.slope.gradient
        barrier = 0.05 * jnp.mean(x * z)
        step = _direction(state, barrier, on_simplex)
        # A coordinate may shrink tenfold or grow eightfold at once: the model is not trusted further.
        longest = jnp.min(jnp.where(step < 0, -0.9 / jnp.where(step < 0, step, -1.0), 8.0 / jnp.maximum(step, 1e-30)))
        length = state.damping * jnp.minimum(1.0, longest)
        trial = x * (1.0 + length * step)
        slope = oracle(trial)
        before = jnp.dot(gradient * x - barrier, step)
        after = jnp.dot(slope.gradient * x - barrier * x / trial, step)
        accept = after <= 0.5 * jnp.abs(before)
        # Complementarity along the step: z dx + x dz = barrier - x z.
        z_step = barrier / x - z - z * step
        z_longest = jnp.min(jnp.where(z_step < 0, -0.95 * z / jnp.where(z_step < 0, z_step, -1.0), 1.0))
        z_trial = z + jnp.minimum(1.0, z_longest) * z_step
        new_x, new_z = jnp.where(accept, trial, x), jnp.where(accept, z_trial, z)
        new_slope = jax.tree.map(lambda new, old: jnp.where(accept, new, old), slope, state.slope)
        secant = jnp.abs(before) / jnp.maximum(jnp.abs(before) + after, 1e-30)
        damping = jnp.where(accept, 1.0, state.damping * jnp.clip(secant, 0.1, 0.5))
        return _State(new_x, new_z, new_slope, damping, residual_of(new_x, new_z, new_slope.gradient), state.count + 1)

    slope = oracle(start)
    z = jnp.maximum(slope.gradient, 0.1 * scale)
    if on_simplex:
        level = jnp.dot(start, slope.gradient) / jnp.sum(start)
        z = jnp.maximum(slope.gradient - level, 0.1 * scale)
    first = _State(
        start, z, slope, jnp.ones_like(start[0]), residual_of(start, z, slope.gradient), jnp.ones((), jnp.int32)
    )
    last = jax.lax.while_loop(unfinished, iterate, first)
    return Minimum(last.x, last.z, last.count)


def slack(minimum: Minimum) -> Bool[Array, "m"]:
    """Coordinates at 0: their share of x is small against their share of the multipliers."""
    x, z = minimum.x / jnp.sum(minimum.x), minimum.z / jnp.maximum(jnp.sum(minimum.z), 1e-30)
    return (x < 1e-3) & (z > x)
