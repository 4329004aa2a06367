"""One phase of a language run: the stages of an iteration, compiled, and what happens between them on the host.

    rollout ─► rewards ─► score ─► E-stage ─► M-stage × updates × epochs ─► π_t refreshed
    (device)   (host)     (device) (device)   (device)

Each stage is one jitted function, so that each is compiled once, timed, and interruptible in between.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from gempi_jax.contracts import Metric, Samples, Target
from gempi_jax.llm.generate import generate
from gempi_jax.methods.base import Method
from gempi_jax.models import tempered
from gempi_jax.numerics.keys import named_key
from gempi_jax.runners.baselines import BASELINES
from gempi_jax.runners.build import lookup
from gempi_jax.runners.compiled import Clock, Compiled
from gempi_jax.runners.data import Source
from gempi_jax.runners.ends import Ends
from gempi_jax.runners.settings import PhaseSettings
from gempi_jax.runners.sources import SOURCES
from gempi_jax.runners.world import Batch, Policy, Scored, behaviour, make_world, score_batch, snapshot
from gempi_jax.training.preemption import Preemption
from gempi_jax.training.state import TrainState
from gempi_jax.training.step import Optimizers, e_stage, finish_iteration, init_dual_opt_state, m_stage, skip_update
from gempi_jax.types import Array, Duals, Params

SAME_MASK = {"same_mask": True, "deterministic": False}
TEMPERED = {"policy": True, "sampler": False}
OLD_LOG_PROBS = {"scored": False, "sampler": True}


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


class Stages(NamedTuple):
    """The jitted functions of an iteration."""

    rollout: Compiled
    score: Compiled
    e_step: Compiled
    update: Compiled
    skip: Compiled
    finish: Compiled


def build_stages(phase: PhaseSettings, method: Method, optimizers: Optimizers, resources: Resources) -> Stages:
    """Compiles nothing yet; the first call of each stage does."""
    temperature = phase.temperature if lookup(TEMPERED, phase.tempered, "tempered") else 1.0
    policy = resources.policy if phase.baseline == "value" else resources.policy._replace(value_head=None)
    policy = policy._replace(model=tempered(policy.model, temperature))
    kind = lookup(SOURCES, phase.source, "source")
    # What a batch holds is its source's to say: without rewards there is nothing to take a baseline off.
    baseline = lookup(BASELINES, phase.baseline, "baseline") if kind.rewarded else None
    same_mask = lookup(SAME_MASK, phase.trust_region_dropout, "trust_region_dropout")
    as_sampled = lookup(OLD_LOG_PROBS, phase.old_log_probs, "old_log_probs")
    chunk = phase.prefill_chunk or None

    def score(frozen: Params, state: TrainState, batch: Batch):
        return score_batch(
            policy.on(frozen),
            method,
            baseline,
            phase.normalize_advantages,
            state,
            batch,
            as_sampled=as_sampled,
            written=kind.written,
            prefill_chunk=chunk,
        )

    def update(
        frozen: Params, state: TrainState, scored: Scored, weights: Array, chosen: Array, key: Array, target: Target
    ):
        world = make_world(
            policy.on(frozen),
            method,
            scored,
            dropout=resources.dropout,
            same_mask=same_mask,
            prefill_chunk=chunk,
        )
        part = jax.tree.map(lambda x: jnp.take(x, chosen, axis=0), scored)
        # A part's loss stands for the whole batch's: its weights are scaled by the number of parts.
        weights = jnp.take(weights, chosen, axis=0) * phase.num_updates
        target = target._replace(weights=weights)
        state, metrics = m_stage(
            method, world, optimizers, state, part, target, key, num_microbatches=phase.num_microbatches
        )
        return settled(state), metrics

    def e_step(duals: Duals, dual_opt_state: PyTree, samples: Samples):
        steps = phase.duals.num_temperature_steps
        *adapted, target = e_stage(method, optimizers, duals, dual_opt_state, samples, num_dual_steps=steps)
        return *settled(tuple(adapted)), target

    def finish(state: TrainState, skipped: Array):
        options = {"old_period": phase.old_period, "old_ema_decay": phase.old_ema_decay}
        return settled(finish_iteration(state, skipped, **options))

    def settled(tree: PyTree) -> PyTree:
        """A state, or a part of it, comes out in the shards that it came in."""
        return jax.lax.with_sharding_constraint(tree, resources.shardings(tree))

    return Stages(
        Compiled(_rollout(phase, phase.temperature / temperature, policy, resources)),
        Compiled(score),
        Compiled(e_step),
        Compiled(update, donate=(1,)),
        Compiled(lambda state: settled(skip_update(state)), donate=(0,)),
        Compiled(finish, donate=(0,)),
    )


def _rollout(phase: PhaseSettings, temperature: float, policy: Policy, resources: Resources) -> Callable:
    """pi_t writes ``num_generations`` completions of each prompt; ``temperature`` is what pi_t lacks of the phase's."""

    def rollout(frozen: Params, state: TrainState, prompts: Array, lengths: Array, key: Array):
        completions = generate(
            policy.on(frozen).model,
            behaviour(state),
            prompts,
            lengths,
            key,
            num_samples=phase.num_generations,
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
        )
        shift = (completions.sampler_log_probs - completions.model_log_probs).sum(-1)
        return completions, shift

    return rollout


def fresh_state(policy: Policy, method: Method, optimizers: Optimizers, state: TrainState) -> TrainState:
    """The first state of a phase: the parameters and the key stay, everything else is new."""
    duals = method.init()
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=state.params,
        opt_state=optimizers.params.init(state.params),
        duals=duals,
        dual_opt_state=init_dual_opt_state(optimizers, duals),
        snapshots={name: snapshot(policy, name, state.params["policy"]) for name in method.snapshots},
        key=state.key,
        skipped=state.skipped,
        skipped_in_a_row=jnp.zeros((), jnp.int32),
    )


def begin(method: Method, optimizers: Optimizers, resources: Resources, state: TrainState) -> TrainState:
    """:func:`fresh_state`, born in its shards."""
    make = functools.partial(fresh_state, resources.policy, method, optimizers)
    return jax.jit(make, out_shardings=resources.shardings(jax.eval_shape(make, state)))(state)


class Iteration:
    """One iteration of a phase; the only place where stages meet the host.

    Args:
      name: of the phase, which keeps its random numbers apart from other phases'.
      phase: settings.
      stages: compiled functions.
      resources: of the run.
      source: makes batches and rewards on the host.
      learning_rate: of an optimiser step.
    """

    def __init__(
        self,
        name: str,
        phase: PhaseSettings,
        stages: Stages,
        resources: Resources,
        source: Source,
        learning_rate: Callable[[int], float],
    ):
        self.phase, self.stages, self.resources = phase, stages, resources
        self.source, self.learning_rate, self.name = source, learning_rate, name

    def __call__(self, state: TrainState) -> tuple[TrainState, dict[str, float]]:
        clock = Clock()
        step = int(state.step)
        key = named_key(state.key, f"phase/{self.name}", step)
        batch, row, finite = self._batch(state, step, key, clock)
        self.resources.preemption.poll()
        if finite:
            state, metrics = self._learn(state, batch, key, clock)
            row |= _means(metrics)
        else:
            state = self.stages.skip(state)
        state = self.stages.finish(state, np.bool_(row.get("mstep/skipped_fraction", 1.0) == 1.0))
        return state, row | self._account(state, step, row["num_tokens"], clock)

    def _batch(self, state, step, key, clock) -> tuple[Batch, dict[str, float], bool]:
        prompts, index = self.source.prompts(step)
        if self.phase.source != "rollout":
            batch, num_tokens = self.source.completions(prompts, index)
            row = {"num_tokens": num_tokens}
            return self.resources.place(batch), row, bool(np.isfinite(batch.rewards).all())
        tokens, lengths = self.resources.place((prompts.tokens, prompts.lengths))
        completions, shift = self.stages.rollout(
            self.resources.frozen, state, tokens, lengths, named_key(key, "rollout")
        )
        host = jax.device_get(completions)
        clock.lap("generate")
        self.resources.preemption.poll()
        scored = self.source.rewards(prompts, host)
        clock.lap("reward")
        groups = np.arange(len(prompts.lengths), dtype=np.int32)
        batch = Batch(
            tokens,
            lengths,
            completions.tokens,
            completions.mask,
            shift,
            completions.model_log_probs,
            scored.rewards,
            groups,
        )
        row = scored.metrics | {"num_tokens": float(prompts.lengths.sum() + host.lengths.sum())}
        return self.resources.place(batch), row, scored.finite

    def _learn(self, state, batch, key, clock):
        scored, samples, metrics = self.stages.score(self.resources.frozen, state, batch)
        jax.block_until_ready(scored)
        clock.lap("score")
        self.resources.preemption.poll()
        duals, dual_opt_state, target = self.stages.e_step(state.duals, state.dual_opt_state, samples)
        jax.block_until_ready(target)
        clock.lap("e_step")
        # The parameters stay where they are, and the first update takes their buffers over.
        state = state._replace(duals=duals, dual_opt_state=dual_opt_state)
        weights, rest = target.weights, target._replace(weights=jnp.zeros(()), metrics={})
        kept, mass = self._heaviest(weights)
        updates = []
        for number, (chosen, update_key) in enumerate(self._parts(key, kept)):
            args = (self.resources.frozen, state, scored, weights, chosen, update_key, rest)
            update = self.stages.update.prepare(*args)
            if number == 0:
                self.resources.preemption.poll()  # compiled, and the last moment at which a state held uncopied lives
            state, part = update(*args)
            updates.append(part)
        jax.block_until_ready(state.params)
        clock.lap("m_step")
        return state, metrics | target.metrics | _total(updates) | {"mstep/kept_mass": mass}

    def _heaviest(self, weights: Array) -> tuple[np.ndarray, Metric]:
        """The groups that the M-step sees, those with most weight, and their share of all weight."""
        of_group = np.asarray(jax.device_get(weights)).reshape(len(weights), -1).sum(1)
        heaviest = np.argsort(-of_group, kind="stable")[: self.phase.update_prompts]
        kept, total = of_group[heaviest].sum(), of_group.sum()
        return heaviest, Metric(np.float32(min(kept, total)), np.float32(total))

    def _parts(self, key: Array, heaviest: np.ndarray):
        """Groups of each optimiser step, freshly shuffled every epoch, and its dropout key."""
        for epoch in range(self.phase.num_epochs):
            order = np.asarray(jax.random.permutation(named_key(key, "order", epoch), len(heaviest)))
            order = order.reshape(self.phase.num_updates, -1)
            for number in range(self.phase.num_updates):
                yield heaviest[order[number]], named_key(key, "dropout", epoch, number)

    def _account(self, state, step, num_tokens, clock) -> dict[str, float]:
        updates_per_iteration = self.phase.num_updates * self.phase.num_epochs
        row = {
            "learning_rate": float(self.learning_rate((step + 1) * updates_per_iteration - 1)),
            "data/dropped_rows": float(self.source.num_dropped),
            "data/truncated_rows": float(self.source.num_truncated),
            "data/seam_rows": float(self.source.num_straddling),
            "skipped_updates": float(jax.device_get(state.skipped)),
        }
        seconds = clock.total()
        times = {f"timing_s/{name}": value for name, value in clock.laps.items()}
        return row | times | {"step_time": seconds, "perf/tokens_per_second": num_tokens / seconds}


def _total(parts: list[dict[str, Metric]]) -> dict[str, Metric]:
    return jax.tree.map(lambda *values: sum(values), *parts)


def _means(metrics: dict[str, Metric]) -> dict[str, float]:
    return {name: float(metric.mean()) for name, metric in jax.device_get(metrics).items()}
