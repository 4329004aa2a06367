"""A run in environments that step on the host: one seed; the next unroll is collected while the last is learnt from."""

import functools

import jax
import numpy as np

from gempi_jax.contracts import Metrics
from gempi_jax.runners.compiled import Clock
from gempi_jax.runners.controlparts import Control
from gempi_jax.runners.controlrows import account, summary
from gempi_jax.runners.hostcontrol import HostIteration
from gempi_jax.runners.settings import ControlSettings
from gempi_jax.training.loop import Judged, Phase
from gempi_jax.training.state import TrainState


class HostRun:
    """As :class:`gempi_jax.runners.controlrun.ControlRun`; a run that is resumed begins new episodes.

    Args:
      settings: of the run.
      control: made of them.

    Raises:
      ValueError: several seeds, which would be several runs, or several devices.
    """

    def __init__(self, settings: ControlSettings, control: Control):
        for name, value in (("num_seeds", settings.num_seeds), ("mesh.data", settings.mesh.data)):
            if value != 1:
                raise ValueError(
                    f"config.{name} = {value}: {control.environment.name} steps on the host, one run at a time; set "
                    "it to 1 and start a run for each seed, with experiments.sweep"
                )
        self.settings, self.control = settings, control
        self._iteration = HostIteration(control, overlapped=settings.environment.overlapped)

    def initial_state(self) -> TrainState:
        """Fresh parameters."""
        return self._iteration.initial_state(jax.random.key(self.settings.seed))

    def template(self) -> TrainState:
        """Shapes of the state, to restore into."""
        return jax.eval_shape(self.initial_state)

    def phase(self) -> Phase:
        """The run as the loop takes it."""
        settings = self.settings
        total = settings.num_iterations
        return Phase(
            settings.method, total, lambda state: state, self.iterate, self.evaluate, total, counted="env_steps"
        )

    def evaluate(self, state: TrainState) -> Judged:
        """What is on the host is judged by its episodes while it learns alone."""
        return Judged({}, [])

    def iterate(self, state: TrainState) -> tuple[TrainState, dict[str, float]]:
        """``log_every`` iterations, fewer at the end, and what there is to say of them."""
        done = int(state.step)
        length = min(self.settings.log_every, self.settings.num_iterations - done)
        clock, rows = Clock(), []
        for _ in range(length):
            state, metrics = self._iteration(state)
            rows.append(metrics)
        found: Metrics = functools.reduce(lambda a, b: jax.tree.map(np.add, a, b), jax.device_get(rows))
        row = summary(jax.tree.map(np.atleast_1d, found))
        return state, row | account(self.settings, state, done, length, clock.total())

    def close(self) -> None:
        """Ends the environment."""
        self._iteration.close()


__all__ = ["HostRun"]
