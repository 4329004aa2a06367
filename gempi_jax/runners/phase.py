"""One phase of a language run: what happens between the stages of an iteration, on the host.

rollout ─► rewards ─► score ─► E-stage ─► M-stage × updates × epochs ─► π_t refreshed
(device)   (host)     (device) (device)   (device)
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from gempi_jax.contracts import Metric, Target
from gempi_jax.methods.base import Method
from gempi_jax.numerics.keys import named_key
from gempi_jax.runners.batch import Batch
from gempi_jax.runners.compiled import Clock
from gempi_jax.runners.data import Rewarded, Source
from gempi_jax.runners.networks import Policy, snapshot
from gempi_jax.runners.settings import PhaseSettings
from gempi_jax.runners.stages import Resources, Stages
from gempi_jax.training.state import TrainState
from gempi_jax.training.step import Optimizers, init_dual_opt_state
from gempi_jax.types import Array


def fresh_state(policy: Policy, method: Method, optimizers: Optimizers, state: TrainState) -> TrainState:
    """The first state of a phase: the parameters and the key stay, everything else is new."""
    duals = method.init()
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=state.params,
        opt_state=optimizers.params.init(state.params),
        duals=duals,
        dual_opt_state=init_dual_opt_state(optimizers, duals),
        snapshots={name: snapshot(policy, name, state.params["policy"]) for name in method.needs.snapshots},
        key=state.key,
        skipped=state.skipped,
        skipped_in_a_row=jnp.zeros((), jnp.int32),
        method=method.init_state(named_key(state.key, "method")),
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
        # The hidden states stay where they are.
        host = jax.device_get(completions._replace(states=None))
        clock.lap("generate")
        width = min(width for width in self.phase.widths if width >= host.lengths.max(initial=0))
        completions, shift = _cut((completions, shift), width)
        self.resources.preemption.poll()
        scored = self.source.rewards(prompts, host)
        clock.lap("reward")
        references = self._references(state, prompts, tokens, lengths, key, clock) if scored.finite else None
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
            reference_rewards=None if references is None else references.rewards,
            states=completions.states,
        )
        row = scored.metrics | {"num_tokens": float(prompts.lengths.sum() + host.lengths.sum())}
        if references is None:
            return self.resources.place(batch), row, scored.finite
        row["reference_reward"] = references.metrics["reward"]
        return self.resources.place(batch), row, references.finite

    def _references(self, state, prompts, tokens, lengths, key, clock) -> Rewarded | None:
        """Rewards [G, R] of what pi_ref writes to the same prompts by the same sampler; ``None`` where nobody asks.

        It costs R / K times the time of the rollout and its rewards, ``timing_s/reference``.
        """
        if self.stages.reference is None:
            return None
        args = self.resources.frozen, state, tokens, lengths, named_key(key, "reference")
        completions, _ = self.stages.reference(*args)
        rewarded = self.source.rewards(prompts, jax.device_get(completions))
        clock.lap("reference")
        self.resources.preemption.poll()
        return rewarded

    def _learn(self, state, batch, key, clock):
        scored, samples, metrics = self.stages.score(self.resources.frozen, state, batch)
        jax.block_until_ready(scored)
        clock.lap("score")
        self.resources.preemption.poll()
        args = state.duals, state.dual_opt_state, samples, state.method, key
        duals, dual_opt_state, target, orders, kept = self.stages.e_step(*args)
        jax.block_until_ready(target)
        clock.lap("e_step")
        # The parameters stay where they are, and the first update takes their buffers over.
        state = state._replace(duals=duals, dual_opt_state=dual_opt_state, method=target.state)
        state, updates = self._updates(state, scored, target, np.asarray(orders), key)
        jax.block_until_ready(state.params)
        clock.lap("m_step")
        return state, metrics | target.metrics | updates | {"mstep/kept_mass": kept}

    def _updates(self, state, scored, target: Target, orders: np.ndarray, key: Array):
        """The M-stage: the state after all updates, and their metrics."""
        per_epoch = self.phase.updates_per_epoch
        rest, stopped = target._replace(metrics={}, importance=None, state=()), np.bool_(False)
        updates: list[dict[str, Metric]] = []
        for number, chosen in enumerate(orders):
            update_key = named_key(key, "dropout", number // per_epoch, number % per_epoch)
            args = (self.resources.frozen, state, scored, chosen, update_key, rest, stopped)
            update = self.stages.update.prepare(*args)
            if number == 0:
                self.resources.preemption.poll()  # compiled, and the last moment at which a state held uncopied lives
            state, metrics, stopped = update(*args)
            updates.append(metrics)
        total = _total(updates)
        if self.stages.limit is None:
            return state, total
        rest = rest._replace(examples={})
        state, metrics = self.stages.limit(self.resources.frozen, state, scored, orders[0], rest, total)
        return state, total | metrics

    def _account(self, state, step, num_tokens, clock) -> dict[str, float]:
        updates_per_iteration = self.phase.updates_per_epoch * self.phase.num_epochs
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


@functools.partial(jax.jit, static_argnums=1)
def _cut(tree: PyTree, width: int) -> PyTree:
    """Arrays [G, K, C, ...] without the padding beyond ``width``; others as they are."""
    return jax.tree.map(lambda x: x[:, :, :width] if x.ndim > 2 else x, tree)


def _total(parts: list[dict[str, Metric]]) -> dict[str, Metric]:
    return jax.tree.map(lambda *values: sum(values), *parts)


def _means(metrics: dict[str, Metric]) -> dict[str, float]:
    # Of numbers on the host: on the device each would be programs of its own.
    host = jax.device_get(metrics)
    return {name: float(metric.sum / metric.weight) if metric.weight > 0 else 0.0 for name, metric in host.items()}
