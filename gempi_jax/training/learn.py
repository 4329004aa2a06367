"""One iteration of learning as a pure function: it scans over iterations, vmaps over seeds, and needs no host.

A world whose rewards live on the host drives the same pieces one by one; see ``runners``.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int, PyTree

from gempi_jax.contracts import Metric, Metrics, Target
from gempi_jax.methods.base import Method
from gempi_jax.numerics.keys import named_key
from gempi_jax.training.line_search import limit_step
from gempi_jax.training.state import TrainState
from gempi_jax.training.step import Optimizers, World, e_stage, has_stopped, m_stage
from gempi_jax.types import Array


class Passes(NamedTuple):
    """How the M-step goes over a batch.

    Attributes:
      units: prompts or unrolls that the M-step sees, those of most importance; 0 for all.
      updates_per_epoch: optimiser steps per pass; divides the units.
      num_epochs: passes.
      num_microbatches: parts of one optimiser step, for memory.
      num_dual_steps: steps of an adaptive temperature before the target is built.
    """

    units: int = 0
    updates_per_epoch: int = 1
    num_epochs: int = 1
    num_microbatches: int = 1
    num_dual_steps: int = 1


ONE_UPDATE = Passes()
"""One optimiser step on the whole batch."""


class Selection(NamedTuple):
    """What of a batch the M-step sees.

    Attributes:
      target: of the E-step.
      units: those that updates go over.
      kept_mass: their share of all importance.
    """

    target: Target
    units: Int[Array, "U"]
    kept_mass: Metric


def select_units(method: Method, target: Target, number: int, units: int) -> Selection:
    """The most important units, those with most weight.

    A critic is fitted on all units: then those that are left out stay in the batch, with weight 0.

    Args:
      method: whose E-step made the target.
      target: without an importance of its units none may be left out.
      number: of units.
      units: how many are seen.
    """
    if target.importance is None or units == number:
        return Selection(target, jnp.arange(number), Metric.of(1.0))
    order = jnp.argsort(-target.importance, stable=True)
    kept = Metric(target.importance[order[:units]].sum(), target.importance.sum())
    if method.needs.critic is None:
        return Selection(target, order[:units], kept)
    weights = target.weights.at[order[units:]].set(0.0)
    return Selection(target._replace(examples=target.examples | {"weights": weights}), order, kept)


def update_order(key: Array, units: Int[Array, "U"], passes: Passes) -> Int[Array, "N M"]:
    """The units of each of the N updates, freshly shuffled every epoch."""

    def one(epoch):
        order = jax.random.permutation(named_key(key, "order", epoch), len(units))
        return units[order].reshape(passes.updates_per_epoch, -1)

    return jnp.concatenate([one(epoch) for epoch in range(passes.num_epochs)])


def moved(target: Target, metrics: Metrics) -> Bool[Array, ""]:
    """Whether any update of an iteration was made, by its target and the metrics of all."""
    made = metrics["mstep/skipped_fraction"].mean() < 1
    return made if target.signal is None else made & target.signal


def take_units(tree: PyTree, units: Int[Array, "M"]) -> PyTree:
    """The units of an update, of every array of a batch or of a target's examples."""
    return jax.tree.map(lambda x: jnp.take(x, units, axis=0), tree)


def learn(
    method: Method,
    world: World,
    optimizers: Optimizers,
    state: TrainState,
    batch: Any,
    samples: PyTree,
    key: Array,
    passes: Passes = ONE_UPDATE,
) -> tuple[TrainState, Metrics]:
    """The E-stage on the whole batch, then the M-stage's updates on parts of it.

    Args:
      method: any.
      world: how to evaluate the policy.
      optimizers: of the parameters and of the duals.
      state: of the run.
      batch: what ``world.evaluate`` reads; arrays with the units in axis 0.
      samples: what the E-step sees of it, :class:`~gempi_jax.contracts.Samples` for all but VIREL.
      key: of the order of the units and of dropout.
      passes: how the M-step goes over the batch.

    Returns:
      The state after the updates, and metrics.
    """
    duals, dual_opt_state, target = e_stage(
        method,
        optimizers,
        state.duals,
        state.dual_opt_state,
        samples,
        state.method,
        num_dual_steps=passes.num_dual_steps,
    )
    state = state._replace(duals=duals, dual_opt_state=dual_opt_state, method=target.state)
    number = len(jax.tree.leaves(batch)[0])
    target, units, kept = select_units(method, target, number, passes.units or number)
    orders = update_order(key, units, passes)

    def update(carry, inputs):
        (state, stopped), (index, chosen) = carry, inputs
        part = take_units((batch, target.examples), chosen)
        state, metrics = m_stage(
            method,
            world,
            optimizers,
            state,
            part[0],
            target._replace(examples=part[1]),
            named_key(key, "dropout", index // passes.updates_per_epoch, index % passes.updates_per_epoch),
            share=1.0 / passes.updates_per_epoch,
            num_microbatches=passes.num_microbatches,
            stopped=stopped,
        )
        return (state, has_stopped(metrics)), metrics

    carry = state, jnp.zeros((), bool)
    (state, _), metrics = jax.lax.scan(update, carry, (jnp.arange(len(orders)), orders))
    metrics = jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics)
    metrics |= target.metrics | {"mstep/kept_mass": kept}
    if method.line_search is None:
        return state, metrics
    some, any_made = take_units(batch, orders[0]), moved(target, metrics)
    state, of_step = limit_step(method, world, state, some, any_made, num_microbatches=passes.num_microbatches)
    return state, metrics | of_step
