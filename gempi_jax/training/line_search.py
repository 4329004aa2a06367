"""The trust region by the step's length: what an iteration's updates moved is scaled until D_M is its budget."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, PyTree

from gempi_jax.contracts import Metric, Metrics
from gempi_jax.methods.base import Method
from gempi_jax.training.state import TrainState
from gempi_jax.training.step import World, split
from gempi_jax.types import Array

EVALUATIONS = 3
"""Of D_M at most: at the step's end, after one correction, and after another; the last is what is reported."""

TOLERANCE = 0.05
"""How far the largest share of a budget may be from 1 for the search to end there: what another evaluation would mend
is less than what a part of the batch tells of the whole."""

POWERS = (0.5, 4.0)
"""Of the length, with which D_M is taken to grow."""

SHORTEST = 1 / 16
"""What one correction shortens a step to at most: what is not finite is no guide to its length."""


def limit_step(
    method: Method,
    world: World,
    state: TrainState,
    batch: PyTree,
    moved: Bool[Array, ""] | bool = True,
    *,
    num_microbatches: int = 1,
) -> tuple[TrainState, Metrics]:
    """theta <- pi_t + s (theta - pi_t), with s in [0, max_scale] such that D_M(pi_t || pi_theta) = eps_M.

    D_M grows with the square of a small step, so that s sqrt(eps_M / D_M) is the next s; of a long step with a power
    that two points tell, for the s after that.  Of several parts the largest share of a budget counts.

    Args:
      method: of whose ``line_search`` the budget is.
      world: how D_M is measured.
      state: after all updates of an iteration; pi_t is its snapshot ``"old"``.
      batch: what D_M is averaged over, a part of the iteration's batch; units in axis 0.
      moved: whether any update was made; the length of what none was made in stays as it is.
      num_microbatches: divides the number of units.

    Returns:
      The state at the budget; ``mstep/kl`` and ``mstep/kl_over_budget`` there, and ``mstep/step_scale``, s.  Where D_M
      is finite at no length that was tried, the policy is pi_t.
    """
    constraint, parts = method.line_search, split(batch, num_microbatches)
    start, end = state.snapshots["old"], state.params["policy"]

    def policy(scale):
        # Exactly the end at 1.
        return jax.tree.map(lambda new, old: new + (scale - 1.0) * (new - old), end, start)

    def measure(scale):
        params = {**state.params, "policy": policy(scale)}
        measured = functools.partial(world.divergence, params, state.snapshots)
        if num_microbatches == 1:
            return measured(jax.tree.map(lambda x: x[0], parts))
        return jax.tree.map(lambda x: x.sum(0), jax.lax.map(measured, parts))

    divergence, scale = _search(measure, constraint.budgets, constraint.enforced.max_scale, jnp.asarray(moved))
    finite = jnp.isfinite(_largest_share(divergence, constraint.budgets))
    scaled = jax.tree.map(lambda new, old: jnp.where(finite, new, old), policy(scale), start)
    metrics = {"mstep/step_scale": Metric.of(jnp.where(finite, scale, 0.0))}
    for part, metric in divergence.items():
        suffix = "" if len(divergence) == 1 else f"/{part}"
        kept = Metric(jnp.where(finite, metric.sum, 0.0), metric.weight)
        metrics[f"mstep/kl{suffix}"] = kept
        metrics[f"mstep/kl_over_budget{suffix}"] = Metric(kept.sum / constraint.budgets[part], kept.weight)
    return state._replace(params={**state.params, "policy": scaled}), metrics


def _search(
    measure: Callable[[Array], dict[str, Metric]], budgets: dict[str, float], longest: float, moved: Bool[Array, ""]
) -> tuple[dict[str, Metric], Float[Array, ""]]:
    """The last of the scales that were tried, and the divergence there."""

    def tried(carry: Any):
        """D_M at the next scale, and the scale after that."""
        count, scale, _, before, share_before, _ = carry
        divergence = measure(scale)
        share = _largest_share(divergence, budgets)
        power = jnp.log(share / share_before) / jnp.log(scale / before)
        power = jnp.where(jnp.isfinite(power), jnp.clip(power, *POWERS), 2.0)
        factor = jnp.where(jnp.isfinite(share), jnp.maximum(share ** (-1.0 / power), SHORTEST), SHORTEST)
        corrected = jnp.where(moved, jnp.minimum(scale * factor, longest), scale)
        there = jnp.abs(share - 1.0) <= TOLERANCE
        return count + 1, jnp.where(there, scale, corrected), there | (corrected == scale), scale, share, divergence

    def goes_on(carry: Any):
        count, _, ends, *_ = carry
        return (count < EVALUATIONS) & ~ends

    one = jnp.ones(())
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(measure, one))
    # Before the first there is none: D_M is taken to be quadratic.
    start = (jnp.zeros((), jnp.int32), one, jnp.zeros((), bool), one, jnp.nan * one, nothing)
    *_, scale, _, divergence = jax.lax.while_loop(goes_on, tried, start)
    return divergence, scale


def _largest_share(divergence: dict[str, Metric], budgets: dict[str, float]) -> Float[Array, ""]:
    """max_p D_p / eps_p; what rounding takes below 0 is 0."""
    shares = [metric.sum / jnp.maximum(metric.weight, 1.0) / budgets[part] for part, metric in divergence.items()]
    return jnp.maximum(jnp.max(jnp.stack(shares)), 0.0)
