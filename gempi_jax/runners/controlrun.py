"""A run in environments from settings to report: iterations in one program, seeds side by side.

Axis 0 of every leaf of the state is the seed.  Devices share the seeds where they divide them, and the environments
otherwise.
"""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gempi_jax.contracts import Metrics
from gempi_jax.numerics.keys import named_key
from gempi_jax.rl import HostEnvironment
from gempi_jax.rl.play import play
from gempi_jax.runners.build import blame
from gempi_jax.runners.compiled import Clock, Compiled
from gempi_jax.runners.controlbuild import Made, build_run
from gempi_jax.runners.controlrows import account, by_seed, check_finite, summary
from gempi_jax.runners.hostrun import HostRun
from gempi_jax.runners.settings import ControlSettings
from gempi_jax.training import sharding
from gempi_jax.training.checkpoint import Checkpointer
from gempi_jax.training.lock import check_free, locked
from gempi_jax.training.loop import Judged, Phase, train
from gempi_jax.training.preemption import Preemption
from gempi_jax.training.progress import Progress
from gempi_jax.training.state import TrainState
from gempi_jax.training.writers import Writer, check_workdir, claim_workdir, workdir_path
from gempi_jax.types import Array

SHOWN = {
    "episode/return": "return",
    "episode/length": "length",
    "mstep/kl": "kl",
    "estep/ess_fraction": "ess",
    "value/explained_variance": "explained",
    "perf/steps_per_second": "steps/s",
}
"""What the progress line shows."""


def run(
    settings: ControlSettings,
    workdir: pathlib.Path,
    config: dict[str, Any],
    report: Callable[[pathlib.Path], object] | None = None,
) -> pathlib.Path:
    """Trains, or goes on with, the run of a workdir and writes its report.

    Args:
      settings: of the run.
      workdir: its folder; one that holds another run, or is in use, is refused.
      config: what ``config.json`` is to hold.
      report: writes the report of a workdir; ``None`` for no report.

    Returns:
      The folder of its checkpoints, the last of which is the policy.

    Raises:
      ValueError: a mistake in the settings; raised before anything is computed.
      Preempted: the run was asked to end and has saved.
    """
    with Preemption(grace_seconds=settings.preemption_grace_seconds) as preemption:
        workdir = workdir_path(workdir)
        check_workdir(workdir, config)
        check_free(workdir)
        with contextlib.closing(make_run(settings)) as made, locked(workdir):
            workdir = claim_workdir(workdir, config)
            _train(made, workdir, preemption)
            if report is not None:
                report(workdir)
    return workdir / "checkpoints"


def make_run(settings: ControlSettings) -> "ControlRun | HostRun":
    """What a run does, compiled at its first call.

    Raises:
      ValueError: a mistake in the settings.
    """
    made = build_run(settings)
    if isinstance(made.control.environment, HostEnvironment):
        return HostRun(settings, made.control)
    with blame("config.mesh"):
        return ControlRun(settings, made, sharding.make_mesh(dataclasses.asdict(settings.mesh)))


def _train(made: "ControlRun | HostRun", workdir: pathlib.Path, preemption: Preemption) -> TrainState:
    settings = made.settings
    checkpointer = open_checkpoints(settings, workdir)
    restored = checkpointer.restore_latest(made.template())
    if restored is None:
        state, host, resumed_at = made.initial_state(), {"phase": 0}, None
    else:
        state, host, resumed_at = restored
    with Writer(workdir, resumed_at=resumed_at) as writer:
        return train(
            [made.phase()],
            state,
            host=host,
            checkpointer=checkpointer,
            writer=writer,
            preemption=preemption,
            progress=Progress(shown=SHOWN),
            checkpoint_every=settings.checkpoint.every,
            # Nothing is donated: a state that a call started from lives until the next is there.
            keep_boundary=False,
            max_skips_in_a_row=settings.max_skips_in_a_row,
        )


def open_checkpoints(settings: ControlSettings, workdir: pathlib.Path) -> Checkpointer:
    """The checkpoints of a run; those of other networks, environments or seeds are refused by their shapes."""
    fingerprint = {"environment": settings.environment.name, "core": settings.core}
    return Checkpointer(workdir / "checkpoints", keep=settings.checkpoint.keep, fingerprint=fingerprint)


class ControlRun:
    """The compiled functions of a run, and where its state lies.

    Args:
      settings: of the run.
      made: of them.
      mesh: of which the ``data`` axis is used.
    """

    def __init__(self, settings: ControlSettings, made: Made, mesh: Mesh):
        self.settings, self.made, self._mesh = settings, made, mesh
        self._by_seed = settings.num_seeds % mesh.shape["data"] == 0
        self._iterate = Compiled(self._over_seeds(self._several))
        self._play = Compiled(self._over_seeds(self._play_seed))

    def seeds(self) -> Array:
        """One key each."""
        numbers = self.settings.seed + np.arange(self.settings.num_seeds)
        return jax.vmap(jax.random.key)(jnp.asarray(numbers, jnp.int32))

    def initial_state(self) -> TrainState:
        """Of all seeds, in its shards."""
        make = functools.partial(jax.lax.map, self.made.initial_state)
        shape = jax.eval_shape(make, self.seeds())
        return jax.jit(make, out_shardings=self._shardings(shape))(self.seeds())

    def template(self) -> TrainState:
        """Shapes and shards of the state, to restore into."""
        make = functools.partial(jax.lax.map, self.made.initial_state)
        shape = jax.eval_shape(make, self.seeds())
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shape, self._shardings(shape)
        )

    def phase(self) -> Phase:
        """The run as the loop takes it."""
        settings = self.settings
        return Phase(
            settings.method,
            settings.num_iterations,
            lambda state: state,
            self.iterate,
            self.evaluate,
            settings.eval.every or settings.num_iterations,
            counted="env_steps",
        )

    def iterate(self, state: TrainState) -> tuple[TrainState, dict[str, float]]:
        """``log_every`` iterations of all seeds, fewer at the end, and what there is to say of them."""
        done = int(np.max(jax.device_get(state.step)))
        length = min(self.settings.log_every, self.settings.num_iterations - done)
        arguments = state, jnp.int32(length)
        compiled = self._iterate.prepare(*arguments)
        clock = Clock()
        state, metrics = compiled(*arguments)
        metrics = jax.device_get(metrics)
        check_finite(self.made.control.environment.name, metrics, done, length)
        return state, summary(metrics) | account(self.settings, state, done, length, clock.total())

    def evaluate(self, state: TrainState) -> Judged:
        """Episodes of the greedy policies; each seed's mean, and the mean of those."""
        if not self.settings.eval.episodes:
            return Judged({}, [])
        played = jax.device_get(self._play(state))
        returns = by_seed("heldout/episode/return", np.mean(played.returns, axis=1))
        return Judged(returns | by_seed("heldout/episode/length", np.mean(played.lengths, axis=1)), [])

    def close(self) -> None:
        """Nothing is open."""

    def _several(self, state: TrainState, length: Array) -> tuple[TrainState, Metrics]:
        """``length`` iterations of a seed; an argument, so that one program serves the last, shorter call, too."""
        iterate = self.made.iterate
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(iterate, state)[1])

        def one(_, carry: tuple[TrainState, Metrics]):
            state, metrics = iterate(carry[0])
            return state, jax.tree.map(jnp.add, carry[1], metrics)

        return jax.lax.fori_loop(0, length, one, (state, nothing))

    def _play_seed(self, state: TrainState):
        key = named_key(state.key, "play")  # the same beginnings each time
        control = self.made.control
        return play(control.agent, control.environment, state.params, key, self.settings.eval.episodes)

    def _over_seeds(self, function: Callable) -> Callable:
        """Of states of all seeds, and arguments that they share."""
        # Small networks are faster one after the other on a CPU, and each seed is then what it is alone.
        in_turn = self._mesh.devices.flat[0].platform == "cpu"

        def mapped(states: TrainState, *shared: Array):
            def one(state: TrainState):
                return function(state, *shared)

            return jax.lax.map(one, states) if in_turn else jax.vmap(one)(states)

        if not self._by_seed or self._mesh.shape["data"] == 1:
            return mapped

        def spread(states: TrainState, *shared: Array):
            # Each device has seeds of its own, and none waits for another.
            seeds, whole = PartitionSpec(sharding.BATCH_AXES), PartitionSpec()
            specs = (seeds, *(whole for _ in shared))
            run = jax.shard_map(mapped, mesh=self._mesh, in_specs=specs, out_specs=seeds, check_vma=False)
            return run(states, *shared)

        return spread

    def _shardings(self, shape: TrainState):
        whole, data = PartitionSpec(), sharding.BATCH_AXES
        if self._by_seed:
            return jax.tree.map(lambda _: NamedSharding(self._mesh, PartitionSpec(data)), shape)
        # Axis 1 of what the world carries is the environment.
        number = self.settings.num_environments

        def environments(x):
            split = x.ndim > 1 and x.shape[1] == number
            return NamedSharding(self._mesh, PartitionSpec(None, data) if split else whole)

        everywhere = jax.tree.map(lambda _: NamedSharding(self._mesh, whole), shape)
        return everywhere._replace(world=jax.tree.map(environments, shape.world))


__all__ = ["SHOWN", "ControlRun", "make_run", "open_checkpoints", "run"]
