"""Control where environments step on the host, in a thread that may collect while the device learns on the last unroll.

Overlapped, the policy b that acts is one iteration old.  Its ``log_probs`` are in the unroll, so that weights, which
have the ratio pi_t / b, and the ratios of PPO are exact; advantages are those of b.
"""

import concurrent.futures
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from gempi_jax.contracts import Metrics
from gempi_jax.numerics.checks import require
from gempi_jax.rl import host_unroll
from gempi_jax.rl.acting import first_seen
from gempi_jax.rl.host_env import HostEnvironment
from gempi_jax.rl.unroll import Actors, Unroll
from gempi_jax.runners.control import acting, fresh_state, learn_from, unroll_key
from gempi_jax.runners.controlparts import Control, check_control
from gempi_jax.training.state import TrainState
from gempi_jax.types import Array, Params


class _Collected(NamedTuple):
    """An unroll, its metrics, and what the environment carries after it."""

    steps: Unroll
    episodes: Metrics
    carried: PyTree


class HostIteration:
    """Iterations of one run (seeds are runs of their own) as :func:`gempi_jax.runners.control.iterate` is for JAX.

    What environments hold cannot be saved: the first iteration of an object begins new episodes, whatever the state
    says.  ``TrainState.world`` is ``HostEnvironment.carried``, what outlives episodes; mostly ``()``.  Use it as a
    context, or close it: it has a thread and the environment.

    Args:
      control: what the run is made of; its environment is a :class:`~gempi_jax.rl.HostEnvironment`.
      overlapped: whether the next unroll is collected while the last is learnt from; else they alternate, and pi_t
        acts, as in JAX.  It pays where learning takes about as long as collecting, and where a policy moves little in
        an iteration: HalfCheetah (``experiments.benchmarks.half_cheetah``) is a seventh faster and learns less.

    Raises:
      ValueError: an environment that is not on the host, or parts that do not fit each other.
    """

    def __init__(self, control: Control, *, overlapped: bool = False):
        require(
            isinstance(control.environment, HostEnvironment),
            f"HostIteration: {control.environment.name} is a {type(control.environment).__name__}; what "
            "steps in JAX is iterated by runners.control.iterate.",
        )
        check_control(control)
        self._control, self._overlapped = control, overlapped
        self._pieces = host_unroll.Pieces.of(control.agent, jax.jit)
        # No argument is donated: a thread may be acting by the parameters that learning starts from.
        self._learn = jax.jit(lambda state, steps: learn_from(control, state, steps, stale=overlapped))
        self._unroll_key = jax.jit(unroll_key)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="unroll")
        self._actors: Actors | None = None
        self._next: concurrent.futures.Future[_Collected] | None = None

    def initial_state(self, key: Array) -> TrainState:
        """A run's first state: fresh parameters; no environment is begun."""
        control = self._control

        @jax.jit
        def make(key: Array, carried: PyTree) -> TrainState:
            shape = (control.num_environments, *control.environment.observation_shape)
            return fresh_state(control, key, first_seen(control.environment.actions, jnp.zeros(shape)), carried)

        return make(key, control.environment.carried)

    def __call__(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """An unroll, and what is learnt from it.

        Args:
          state: of :meth:`initial_state`, after an iteration, or from a checkpoint.

        Returns:
          The state after it, and metrics; they may still be on their way.

        Raises:
          EnvironmentFailed: an instance died or gave what is no number; nothing was learnt from the unroll.  Make the
            environment and this anew, and go on from the last state.
        """
        pending, self._next = self._next, None
        if pending is None and self._actors is None:
            self._control.environment.carried = state.world
        collected = (pending or self._collect(state, state.step)).result()
        if self._overlapped:
            self._next = self._collect(state, state.step + 1)
        state, metrics = self._learn(state._replace(world=collected.carried), collected.steps)
        return state, metrics | collected.episodes

    def close(self) -> None:
        """Waits for the unroll that is under way, and ends the environment."""
        self._thread.shutdown(wait=True)
        self._control.environment.close()

    def __enter__(self) -> "HostIteration":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _collect(self, state: TrainState, number: PyTree) -> concurrent.futures.Future[_Collected]:
        return self._thread.submit(self._unroll, acting(state), self._unroll_key(state.key, number))

    def _unroll(self, params: Params, key: Array) -> _Collected:
        agent, environment = self._control.agent, self._control.environment
        actors, self._actors = self._actors, None  # lost where a step fails
        if actors is None:
            actors = host_unroll.begin(agent, environment)
        self._actors, steps, episodes = host_unroll.unroll(
            self._pieces, environment, params, actors, key, self._control.unroll_length
        )
        return _Collected(steps, episodes, environment.carried)


__all__ = ["HostIteration"]
