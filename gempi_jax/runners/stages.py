"""The jitted functions of an iteration of a language run.

Each stage is one jitted function, so that each is compiled once, timed, and interruptible in between.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from gempi_jax.contracts import Metrics, Samples, Target
from gempi_jax.llm.generate import generate
from gempi_jax.methods.base import Method
from gempi_jax.models import tempered
from gempi_jax.runners.baselines import BASELINES
from gempi_jax.runners.batch import Batch, Scored
from gempi_jax.runners.build import lookup
from gempi_jax.runners.compiled import Compiled
from gempi_jax.runners.ends import Ends
from gempi_jax.runners.networks import Policy, behaviour
from gempi_jax.runners.scoring import Advantages, Reader, score_batch
from gempi_jax.runners.settings import PhaseSettings
from gempi_jax.runners.sources import SOURCES
from gempi_jax.runners.world import LanguageWorld
from gempi_jax.training.learn import Passes, moved, select_units, take_units, update_order
from gempi_jax.training.line_search import limit_step
from gempi_jax.training.preemption import Preemption
from gempi_jax.training.state import TrainState
from gempi_jax.training.step import Optimizers, e_stage, finish_iteration, has_stopped, m_stage, skip_update
from gempi_jax.types import Array, Duals, Params

SAME_MASK = {"same_mask": True, "deterministic": False}
TEMPERED = {"policy": True, "sampler": False}
OLD_LOG_PROBS = {"auto": None, "scored": False, "sampler": True}


class Resources(NamedTuple):
    """What all phases of a run share.

    Attributes:
      policy: the networks.
      frozen: parameters that the policy reads and nothing trains, on the mesh: the base under adapters, else ``{}``.
      ends: what ends a completion.
      pad_id: of the tokenizer.
      place: puts a host batch on the mesh, groups over the data axes.
      shardings: of a state, by the rules.
      preemption: polled between stages.
      dropout: whether likelihood passes drop.
    """

    policy: Policy
    frozen: Params
    ends: Ends
    pad_id: int
    place: Callable[[PyTree], PyTree]
    shardings: Callable[[PyTree], PyTree]
    preemption: Preemption
    dropout: bool

    def settled(self, tree: PyTree) -> PyTree:
        """A state, or a part of it, comes out of a stage in the shards that it came in."""
        return jax.lax.with_sharding_constraint(tree, self.shardings(tree))


class Stages(NamedTuple):
    """The jitted functions of an iteration; ``reference`` is ``None`` where no method asks for samples of pi_ref."""

    rollout: Compiled
    reference: Compiled | None
    score: Compiled
    e_step: Compiled
    update: Compiled
    limit: Compiled | None
    skip: Compiled
    finish: Compiled


def build_stages(phase: PhaseSettings, method: Method, optimizers: Optimizers, resources: Resources) -> Stages:
    """Compiles nothing yet; the first call of each stage does."""
    own = phase.temperature if lookup(TEMPERED, phase.tempered, "tempered") else 1.0
    policy = resources.policy if method.needs.critic is not None else resources.policy._replace(value_head=None)
    policy = policy._replace(model=tempered(policy.model, own))

    sampled = as_sampled(phase, method, policy)
    region = method.needs.trust_region
    states = sampled and region is not None and region.towards == "old"
    write = functools.partial(_rollout, phase, phase.temperature / own, policy, resources)
    references = method.needs.reference_samples

    def finish(state: TrainState, skipped: Array):
        options = {"old_period": phase.old_period, "old_ema_decay": phase.old_ema_decay}
        return resources.settled(finish_iteration(state, skipped, **options))

    return Stages(
        Compiled(write(behaviour, phase.num_generations, states)),
        Compiled(write(_reference, references, False)) if references and phase.source == "rollout" else None,
        # What is scored holds the batch.
        Compiled(_score(phase, method, policy, sampled), donate=(2,)),
        Compiled(_e_step(phase, method, optimizers, resources)),
        Compiled(_update(phase, method, optimizers, policy, resources), donate=(1,)),
        None if method.line_search is None else Compiled(_limit(phase, method, policy, resources), donate=(1,)),
        Compiled(lambda state: resources.settled(skip_update(state)), donate=(0,)),
        Compiled(finish, donate=(0,)),
    )


def as_sampled(phase: PhaseSettings, method: Method, policy: Policy) -> bool:
    """Whether log pi_t of a rollout is what the sampler said, without a pass over what it wrote.

    In float32 the two are the same up to rounding.  A critic reads the states of such a pass, and rounding would tell
    equal rewards, less their price of KL, apart.
    """
    chosen = lookup(OLD_LOG_PROBS, phase.old_log_probs, "old_log_probs")
    if chosen is not None:
        return chosen
    needs, written = method.needs, lookup(SOURCES, phase.source, "source").written
    return written and needs.critic is None and not needs.kl_price and policy.model.dtype == jnp.float32


def _reference(state: TrainState) -> Params:
    """pi_ref."""
    return state.snapshots["ref"]


def _rollout(
    phase: PhaseSettings,
    temperature: float,
    policy: Policy,
    resources: Resources,
    writer: Callable[[TrainState], Params],
    number: int,
    keep_states: bool,
) -> Callable:
    """A policy of the state writes ``number`` completions of each prompt, by the phase's sampler.

    ``temperature`` is what the policy lacks of the phase's; ``keep_states`` for a trust region that reads them.
    """

    def rollout(frozen: Params, state: TrainState, prompts: Array, lengths: Array, key: Array):
        completions = generate(
            policy.on(frozen).model,
            writer(state),
            prompts,
            lengths,
            key,
            num_samples=number,
            max_new_tokens=phase.max_completion_length,
            temperature=temperature,
            top_k=phase.top_k or None,
            top_p=phase.top_p if phase.top_p < 1 else None,
            min_p=phase.min_p or None,
            eos_id=resources.ends.eos_ids,
            pad_id=resources.pad_id,
            stops=resources.ends.stops,
            prefill_chunk=phase.prefill_chunk or None,
            shrink=phase.shrink,
            keep_states=keep_states,
        )
        return completions, completions.sampler_log_probs - completions.model_log_probs

    return rollout


def _score(phase: PhaseSettings, method: Method, policy: Policy, sampled: bool) -> Callable:
    """Every frozen policy reads the completions, and rewards become advantages."""
    kind = lookup(SOURCES, phase.source, "source")
    # What a batch holds is its source's to say: without rewards there is nothing to take a baseline off.
    baseline = lookup(BASELINES, phase.baseline, "baseline") if kind.rewarded else None

    def score(frozen: Params, state: TrainState, batch: Batch):
        reader = Reader(policy.on(frozen), sampled, kind.written, phase.prefill_chunk or None)
        return score_batch(reader, Advantages(baseline, phase.normalize_advantages), method.needs, state, batch)

    return score


def _e_step(phase: PhaseSettings, method: Method, optimizers: Optimizers, resources: Resources) -> Callable:
    """Temperatures, the target of the whole batch, and which of its units each update of the M-step sees."""
    passes = Passes(phase.update_prompts, phase.updates_per_epoch, phase.num_epochs)

    def e_step(duals: Duals, dual_opt_state: PyTree, samples: Samples, method_state: PyTree, key: Array):
        steps = phase.duals.num_temperature_steps
        *adapted, target = e_stage(
            method, optimizers, duals, dual_opt_state, samples, method_state, num_dual_steps=steps
        )
        target, units, kept = select_units(method, target, phase.batch_prompts, passes.units)
        return *resources.settled(tuple(adapted)), target, update_order(key, units, passes), kept

    return e_step


def _update(
    phase: PhaseSettings, method: Method, optimizers: Optimizers, policy: Policy, resources: Resources
) -> Callable:
    """One optimiser step on the units that are chosen for it, and whether it has stopped the policy on this batch."""
    same_mask = lookup(SAME_MASK, phase.trust_region_dropout, "trust_region_dropout")

    def update(
        frozen: Params, state: TrainState, scored: Scored, chosen: Array, key: Array, target: Target, stopped: Array
    ):
        world = LanguageWorld(
            policy.on(frozen), method.needs, resources.dropout, same_mask, phase.prefill_chunk or None
        ).world()
        part, examples = take_units((scored, target.examples), chosen)
        state, metrics = m_stage(
            method,
            world,
            optimizers,
            state,
            part,
            target._replace(examples=examples),
            key,
            share=1.0 / phase.updates_per_epoch,
            num_microbatches=phase.num_microbatches,
            stopped=stopped,
        )
        return resources.settled(state), metrics, has_stopped(metrics)

    return update


def _limit(phase: PhaseSettings, method: Method, policy: Policy, resources: Resources) -> Callable:
    """The length of the step that an iteration's updates made, by its budget on the units that are chosen for it."""

    def limit(frozen: Params, state: TrainState, scored: Scored, chosen: Array, target: Target, updates: Metrics):
        world = LanguageWorld(policy.on(frozen), method.needs, prefill_chunk=phase.prefill_chunk or None).world()
        part = take_units(scored, chosen)
        state, metrics = limit_step(
            method, world, state, part, moved(target, updates), num_microbatches=phase.num_microbatches
        )
        return resources.settled(state), metrics

    return limit
