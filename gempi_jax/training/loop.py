"""The one loop: phases of iterations, with evaluation, checkpoints, preemption and a stop when nothing is finite.

The loop knows no language, no environment and no method; a phase brings its own functions.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

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
      iterate: returns the new state, whose ``step`` is higher by the iterations made, one or several, and their
        metrics, ``counted`` among them.
      evaluate: judges a state on held-out data.
      eval_every: iterations between evaluations; the phase's end is always evaluated.
      counted: the metric that is summed up over the run, such as ``num_tokens``.
    """

    name: str
    num_iterations: int
    begin: Callable[[TrainState], TrainState]
    iterate: Callable[[TrainState], tuple[TrainState, dict[str, float]]]
    evaluate: Callable[[TrainState], Judged]
    eval_every: int
    counted: str = "num_tokens"


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
      host: what goes into checkpoints beside the state: ``phase``, the index of its phase, what its phases have
        ``counted`` so far, and ``begun`` once the first evaluation is written.
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
    loop = _Loop(
        phases,
        dict(host),
        checkpointer,
        writer,
        preemption,
        progress,
        checkpoint_every=checkpoint_every,
        keep_boundary=keep_boundary,
        max_skips_in_a_row=max_skips_in_a_row,
    )
    if "begun" not in host:
        loop.look_before(state)
    for index in range(host["phase"], len(phases)):
        state = loop.run_phase(index, state)
    progress.close()
    return state


@dataclasses.dataclass
class _Loop:
    """The arguments of :func:`train`, and what was last known of the policy."""

    phases: Sequence[Phase]
    host: dict[str, Any]
    checkpointer: Checkpointer
    writer: Writer
    preemption: Preemption
    progress: Progress
    checkpoint_every: int
    keep_boundary: bool
    max_skips_in_a_row: int
    heldout: dict[str, float] = dataclasses.field(default_factory=dict)

    def look_before(self, state: TrainState) -> None:
        """Judges the policy that training starts from."""
        judged = self.phases[0].evaluate(state)
        self.heldout = judged.metrics
        self.writer.samples(0, _label(judged.samples, self.phases[0].name, "before"))
        self.writer.metrics(0, {"phase": self.phases[0].name, **judged.metrics})
        self.host["begun"] = True

    def run_phase(self, index: int, state: TrainState) -> TrainState:
        """A phase from wherever the state stands in it to its end."""
        phase, offset = self.phases[index], sum(phase.num_iterations for phase in self.phases[:index])
        if index > self.host["phase"]:
            state, self.host["phase"] = phase.begin(state), index
        recent: collections.deque[dict[str, Any]] = collections.deque(maxlen=PATIENCE)
        while (before := steps_of(state)) < phase.num_iterations:
            self._hold(offset + before, state)
            state, row = phase.iterate(state)
            after = steps_of(state)
            if after == phase.num_iterations or _passed(before, after, phase.eval_every):
                row = {**row, **self._judge(index, offset + after, state)}
            recent.append(row)
            self._tell(phase, offset + after, row, list(recent))
            _check_skips(state, offset + after, self.max_skips_in_a_row, phase.num_iterations)
            if after == phase.num_iterations or _passed(before, after, self.checkpoint_every):
                self.checkpointer.save(offset + after, state, self.host)
        self._hold(offset + phase.num_iterations, state)
        return state

    def _hold(self, step: int, state: TrainState) -> None:
        """What a signal would save from here on."""
        kept = jax.tree.map(lambda x: x.copy(), state) if self.keep_boundary else state
        self.preemption.hold(self.checkpointer.prepare(step, kept, self.host))

    def _judge(self, index: int, step: int, state: TrainState) -> dict[str, float]:
        """Held-out figures; at a phase's end its completions are kept, from which the next phase starts."""
        judged = self.phases[index].evaluate(state)
        self.heldout = judged.metrics
        if steps_of(state) == self.phases[index].num_iterations:
            self.writer.samples(step, _label(judged.samples, self.phases[index].name, "after"))
            for following in self.phases[index + 1 : index + 2]:
                self.writer.samples(step, _label(judged.samples, following.name, "before"))
        return judged.metrics

    def _tell(self, phase: Phase, step: int, row: dict[str, Any], recent: list[dict[str, Any]]) -> None:
        """Writes the metrics of an iteration, and shows them."""
        row[phase.counted] = self.host[phase.counted] = self.host.get(phase.counted, 0.0) + row[phase.counted]
        total = sum(phase.num_iterations for phase in self.phases)
        self.writer.metrics(step, {"phase": phase.name, **row})
        self.progress.update(phase.name, step, total, {**self.heldout, **row})
        self.progress.note(budget_notes(recent))


def steps_of(state: TrainState) -> int:
    """Iterations completed; runs side by side in one state have all completed as many."""
    return int(np.max(jax.device_get(state.step)))


def _passed(before: int, after: int, every: int) -> bool:
    """Whether a multiple of ``every`` lies in (before, after]: an iteration may take several steps."""
    return after // every > before // every


def _label(samples, phase, when):
    return [{"phase": phase, "when": when, **sample} for sample in samples]


def _check_skips(state: TrainState, step: int, limit: int, num_iterations: int) -> None:
    # Of runs side by side those that can go on do so.
    in_a_row, total = (int(np.min(x)) for x in jax.device_get((state.skipped_in_a_row, state.skipped)))
    if in_a_row >= min(limit, num_iterations):
        raise TooManySkippedUpdates(
            f"step {step}: {in_a_row} iterations in a row made no update, since a loss, reward or gradient was not "
            f"finite ({total} updates in all), so training stops. The parameters from before them are in the last "
            "checkpoint. Lower the learning rate or look at the rewards, and start afresh in another workdir; "
            f"{f'max_skips_in_a_row = {limit}' if in_a_row >= limit else 'these were all iterations of the phase'}."
        )
