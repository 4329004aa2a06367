"""The one training step: an E-stage on the whole batch, then M-stage updates on parts of it.

There is no trainer per algorithm: a :class:`~gempi_jax.methods.base.Method` says what weights and loss are, a world how
to evaluate its policy, and the two functions here do the rest.  They are plain; ``runners`` jit them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, PyTree

from gempi_jax.contracts import Counts, Evaluation, Metric, Metrics, Target
from gempi_jax.em.duals import project_duals
from gempi_jax.methods.base import Method
from gempi_jax.training.state import TrainState
from gempi_jax.types import Array, Duals

E_STEP_DUAL = "temperature"


class World(NamedTuple):
    """How a world evaluates the policy that is being fitted.

    Attributes:
      evaluate: (params, snapshots, part of the batch, key, counts of the whole update) -> the evaluation.
      count: batch -> its numbers of real likelihood terms and of examples that have one.
      divergence: (params, snapshots, part) -> D_M by part, summed over real terms, without dropout; for a line search.
    """

    evaluate: Callable[[PyTree, dict[str, PyTree], Any, Array, Counts], Evaluation]
    count: Callable[[Any], tuple[Array, Array]]
    divergence: Callable[[PyTree, dict[str, PyTree], Any], Metrics] | None = None


class Optimizers(NamedTuple):
    """Parameters and duals have optimisers of their own."""

    params: optax.GradientTransformation
    duals: dict[str, optax.GradientTransformation]


def init_dual_opt_state(optimizers: Optimizers, duals: Duals) -> PyTree:
    """One optimiser state per dual, so that a stage steps only the duals that are its own."""
    return {name: optimizers.duals[_kind(name)].init(dual) for name, dual in duals.items()}


def e_stage(
    method: Method,
    optimizers: Optimizers,
    duals: Duals,
    dual_opt_state: PyTree,
    samples: PyTree,
    method_state: PyTree = (),
    *,
    num_dual_steps: int = 1,
) -> tuple[Duals, PyTree, Target]:
    """Brings the temperatures up to date with the batch, then builds the target from it.

    No parameter goes in or out: compiled by itself, the stage copies none.

    Args:
      method: whose E-step.
      optimizers: of which the duals' is used.
      duals: of the run.
      dual_opt_state: of their optimisers.
      samples: the global batch; the target is fixed for all updates that follow.
      method_state: what the method carries between batches; the next one is ``Target.state``.
      num_dual_steps: gradient steps on (25) before the target is built; 0 leaves the temperatures alone.

    Returns:
      The new duals, the state of their optimisers, and the target.
    """

    def dual_loss(duals):
        target = method.e_step(duals, samples, method_state)
        return target.dual_loss, target.signal

    def dual_step(carry, _):
        gradient, signal = jax.grad(dual_loss, has_aux=True)(carry[0])
        return _told(signal, _step_duals(method, optimizers, *carry, gradient, e_step=True), carry), None

    if E_STEP_DUAL in duals and num_dual_steps:
        (duals, dual_opt_state), _ = jax.lax.scan(dual_step, (duals, dual_opt_state), length=num_dual_steps)
    return duals, dual_opt_state, method.e_step(duals, samples, method_state)


def m_stage(
    method: Method,
    world: World,
    optimizers: Optimizers,
    state: TrainState,
    batch: PyTree,
    target: Target,
    key: Array,
    *,
    share: float = 1.0,
    num_microbatches: int = 1,
    stopped: Bool[Array, ""] | bool = False,
) -> tuple[TrainState, Metrics]:
    """One optimiser step on (26): gradients of all micro-batches are added, then applied once.

    Losses are additive shares of the update's, so that the number of micro-batches changes nothing but memory.

    Args:
      method: whose M-step.
      world: how to evaluate the policy on a part of the batch.
      optimizers: of the parameters and of the duals.  state: of the run.
      batch: what ``world.evaluate`` reads; arrays with the units in axis 0.
      target: its examples those of this update.
      key: of dropout.  share: of the units that the M-step sees, those of this update.
      num_microbatches: divides the number of units.
      stopped: whether an earlier update on the batch has stopped the policy, :func:`has_stopped`.

    Returns:
      The new state, or the old one with its counter raised when loss or gradient was not finite; metrics, of which
      ``mstep/skipped_fraction`` says whether it was.  Where the target has no signal, or ``Method.kl_stop`` is passed,
      the policy, its optimiser and the duals stay as they were, momentum included, and V alone is fitted.
    """
    counts = Counts(*world.count(batch), jnp.float32(share))
    parts = split((batch, target.examples), num_microbatches)

    def loss_fn(params, duals, part):
        batch_part, examples = part
        evaluation = world.evaluate(params, state.snapshots, batch_part, key, counts)
        loss, metrics = method.m_step(duals, target._replace(examples=examples), evaluation)
        return loss, {**metrics, "loss": Metric(loss, jnp.ones_like(loss))}

    gradient = jax.grad(loss_fn, argnums=(0, 1), has_aux=True)
    if num_microbatches == 1:
        (grads, dual_grads), metrics = gradient(state.params, state.duals, jax.tree.map(lambda x: x[0], parts))
    else:
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(gradient, state.params, state.duals, jax.tree.map(lambda x: x[0], parts)),
        )

        def accumulate(total, part):
            return jax.tree.map(jnp.add, total, gradient(state.params, state.duals, part)), None

        ((grads, dual_grads), metrics), _ = jax.lax.scan(accumulate, zeros, parts)
    metrics["loss"] = Metric.of(metrics["loss"].sum)  # a total, not a mean over the parts
    updated, metrics = _apply(method, optimizers, state, grads, dual_grads, metrics)
    moves = target.signal
    if method.kl_stop is not None:
        stopped |= ~(metrics["approx_kl"].mean() <= method.kl_stop)
        metrics["mstep/stopped_fraction"] = Metric.of(stopped)
        moves = ~stopped & (True if moves is None else moves)
    return _told(moves, updated, state), metrics


def has_stopped(metrics: Metrics) -> Bool[Array, ""]:
    """Whether an update, or one before it on the same batch, has stopped the policy."""
    return metrics.get("mstep/stopped_fraction", Metric.of(0.0)).sum > 0


def skip_update(state: TrainState) -> TrainState:
    """Counts an update that could not be made because something was not finite."""
    return state._replace(skipped=state.skipped + 1)


def finish_iteration(
    state: TrainState, skipped: Bool[Array, ""] | bool = False, *, old_period: int = 1, old_ema_decay: float = 0.0
) -> TrainState:
    """Counts the iteration and refreshes pi_t.

    Args:
      state: after the iteration's updates.
      skipped: whether none of them could be made.
      old_period: T_target: pi_t becomes the current policy every so many iterations.
      old_ema_decay: d in pi_t <- d pi_t + (1 - d) pi_theta at each refresh; 0 copies.

    Returns:
      The state in which the next iteration starts.
    """
    step = state.step + 1
    snapshots = dict(state.snapshots)
    if "old" in snapshots:

        def refresh(old, new):
            mixed = old_ema_decay * old + (1.0 - old_ema_decay) * new if old_ema_decay else new
            return jnp.where(step % old_period == 0, mixed, old) if old_period > 1 else mixed

        snapshots["old"] = jax.tree.map(refresh, snapshots["old"], state.params["policy"])
    in_a_row = jnp.where(skipped, state.skipped_in_a_row + 1, 0)
    return state._replace(step=step, snapshots=snapshots, skipped_in_a_row=in_a_row)


def split(tree: PyTree, num_parts: int) -> PyTree:
    """[G, ...] -> [parts, G/parts, ...]; part j takes every parts-th unit, so that no unit changes its device."""

    def split(x):
        return x.reshape(x.shape[0] // num_parts, num_parts, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, tree)


def _kind(name: str) -> str:
    return name.split("/")[0]


def _step_duals(method, optimizers, duals, opt_state, grads, *, e_step: bool):
    """One step of the duals of a stage, on gradients relative to their budgets: 1 - D / eps, whatever the unit of D."""
    new_duals, new_opt_state = dict(duals), dict(opt_state)
    for name, dual in duals.items():
        if (name == E_STEP_DUAL) == e_step:
            optimizer = optimizers.duals[_kind(name)]
            relative = grads[name] / jnp.asarray(method.budgets.get(name, 1.0), grads[name].dtype)
            updates, new_opt_state[name] = optimizer.update(relative, opt_state[name], dual)
            new_duals[name] = optax.apply_updates(dual, updates)
    return project_duals(new_duals), new_opt_state


def _apply(method, optimizers, state, grads, dual_grads, metrics) -> tuple[TrainState, Metrics]:
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(grad_norm) & jnp.isfinite(metrics["loss"].sum) & _all_finite(dual_grads)
    updates, opt_state = optimizers.params.update(grads, state.opt_state, state.params)
    duals, dual_opt_state = _step_duals(method, optimizers, state.duals, state.dual_opt_state, dual_grads, e_step=False)
    updated = state._replace(
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        duals=duals,
        dual_opt_state=dual_opt_state,
    )
    state = jax.tree.map(lambda new, old: _select(finite, new, old), updated, skip_update(state))
    return state, {**metrics, "grad_norm": Metric.of(grad_norm), "mstep/skipped_fraction": Metric.of(~finite)}


def _told(signal: Bool[Array, ""] | None, new: PyTree, old: PyTree) -> PyTree:
    """What a batch without a signal leaves as it was: all but V(x), its optimiser's state, and what counts updates."""
    if signal is None:
        return new

    def select(path, new, old):
        names = [getattr(part, "key", getattr(part, "name", None)) for part in path]
        # Whichever comes first: a policy may have a layer of that name.
        owner = next((name for name in names if name in ("policy", "value", "skipped")), "policy")
        return _select(signal, new, old) if owner == "policy" else new

    return jax.tree_util.tree_map_with_path(select, new, old)


def _select(finite: Bool[Array, ""], new: Array, old: Array) -> Array:
    return new if new is old else jnp.where(finite, new, old)


def _all_finite(tree: PyTree) -> Float[Array, ""] | Bool[Array, ""]:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)] or [True]))
