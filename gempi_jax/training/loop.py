"""The one loop: phases of iterations, with evaluation, checkpoints, preemption and a stop when nothing is finite.

The loop knows no language, no environment and no method; a phase brings its own functions.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from gempi_jax.training.budgets import PATIENCE, budget_notes
from gempi_jax.training.checkpoint import Checkpointer
from gempi_jax.training.preemption import Preemption
from gempi_jax.training.progress import Progress
from gempi_jax.training.state import TrainState
from gempi_jax.training.writers import Writer


class TooManySkippedUpdates(RuntimeError):
    """Updates were not finite for so long that going on would be a waste."""


class Judged(NamedTuple):
    """What a held-out evaluation gives: numbers, and examples to read."""

    metrics: dict[str, float]
    samples: list[dict[str, Any]]


class Phase(NamedTuple):
    """A stretch of a run.

    Attributes:
      name: for records.
      num_iterations: of this phase.
      begin: the state that the previous phase left -> the state of this phase's first iteration.
      iterate: one iteration; returns the new state, whose ``step`` is one higher, and its metrics, ``num_tokens`` of
        this iteration among them.
      evaluate: judges a state on held-out data.
      eval_every: iterations between evaluations; the phase's end is always evaluated.
    """

    name: str
    num_iterations: int
    begin: Callable[[TrainState], TrainState]
    iterate: Callable[[TrainState], tuple[TrainState, dict[str, float]]]
    evaluate: Callable[[TrainState], Judged]
    eval_every: int


def train(
    phases: Sequence[Phase],
    state: TrainState,
    *,
    host: Mapping[str, Any],
    checkpointer: Checkpointer,
    writer: Writer,
    preemption: Preemption,
    progress: Progress,
    checkpoint_every: int,
    keep_boundary: bool,
    max_skips_in_a_row: int,
) -> TrainState:
    """Runs the phases that are left.

    Args:
      phases: of the whole run.
      state: of phase ``host["phase"]``, at any of its iterations.
      host: what goes into checkpoints beside the state: ``phase``, the index of its phase, ``num_tokens`` so far, and
        ``begun`` once the first evaluation is written.
      checkpointer, writer, preemption, progress: of the run.
      checkpoint_every: iterations between checkpoints.
      keep_boundary: keeps a copy of the state that an iteration started from, so that a signal can be answered at any
        moment; without it, a signal that comes once the M-step has begun is answered after the iteration.
      max_skips_in_a_row: the run ends with an error after so many iterations in a row that could make no update, and
        after a phase that made none.

    Returns:
      The state after the last iteration.

    Raises:
      TooManySkippedUpdates: naming the step and the counters; the last good state is saved.
      Preempted: by the preemption, at a safe point.
    """
    host = dict(host)
    offset = sum(phase.num_iterations for phase in phases[: host["phase"]])
    total = sum(phase.num_iterations for phase in phases)

    def hold(step: int, state: TrainState) -> None:
        kept = jax.tree.map(lambda x: x.copy(), state) if keep_boundary else state
        preemption.hold(checkpointer.prepare(step, kept, host))

    last: dict[str, float] = {}
    if "begun" not in host:
        judged = phases[0].evaluate(state)
        last = judged.metrics
        writer.samples(0, _label(judged.samples, phases[0].name, "before"))
        writer.metrics(0, {"phase": phases[0].name, **judged.metrics})
        host["begun"] = True
    for index, phase in enumerate(phases[host["phase"] :], start=host["phase"]):
        if index > host["phase"]:
            state, host["phase"] = phase.begin(state), index
        recent: collections.deque[dict[str, Any]] = collections.deque(maxlen=PATIENCE)
        while int(state.step) < phase.num_iterations:
            hold(offset + int(state.step), state)
            state, row = phase.iterate(state)
            host["num_tokens"] += row["num_tokens"]
            row["num_tokens"] = host["num_tokens"]
            step, done = offset + int(state.step), int(state.step) == phase.num_iterations
            if done or int(state.step) % phase.eval_every == 0:
                judged = phase.evaluate(state)
                last = judged.metrics
                row = {**row, **judged.metrics}
                if done:
                    writer.samples(step, _label(judged.samples, phase.name, "after"))
                    # What one phase leaves is what the next one starts from.
                    for following in phases[index + 1 : index + 2]:
                        writer.samples(step, _label(judged.samples, following.name, "before"))
            writer.metrics(step, {"phase": phase.name, **row})
            progress.update(phase.name, step, total, {**last, **row})
            recent.append(row)
            progress.note(budget_notes(list(recent)))
            _check_skips(state, step, max_skips_in_a_row, phase.num_iterations)
            if done or int(state.step) % checkpoint_every == 0:
                checkpointer.save(step, state, host)
        offset += phase.num_iterations
        hold(offset, state)
    progress.close()
    return state


def _label(samples, phase, when):
    return [{"phase": phase, "when": when, **sample} for sample in samples]


def _check_skips(state: TrainState, step: int, limit: int, num_iterations: int) -> None:
    in_a_row, total = jax.device_get((state.skipped_in_a_row, state.skipped))
    if in_a_row >= min(limit, num_iterations):
        raise TooManySkippedUpdates(
            f"step {step}: {in_a_row} iterations in a row made no update, since a loss, reward or gradient was not "
            f"finite ({total} updates in all), so training stops. The parameters from before them are in the last "
            "checkpoint. Lower the learning rate or look at the rewards, and start afresh in another workdir; "
            f"{f'max_skips_in_a_row = {limit}' if in_a_row >= limit else 'these were all iterations of the phase'}."
        )
