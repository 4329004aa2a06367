"""Many instances of an environment on the host: gymnasium's, and envpool's in C++.

They give the same :class:`~gempi_jax.rl.env.TimeStep` as environments in JAX: where an episode ended, the first
observation of the next one and, apart from it, the last of the old one.  ``send`` and ``receive`` leave time in between
for learning.  What they hold cannot be saved: a run that is resumed begins new episodes.
"""

import concurrent.futures
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import PyTree

from gempi_jax.rl.env import Continuous, Discrete, TimeStep
from gempi_jax.rl.failures import EnvironmentFailed, require_finite


@runtime_checkable
class Driver(Protocol):
    """What a package's instances have to do."""

    name: str
    num_envs: int
    observation_shape: tuple[int, ...]
    actions: Discrete | Continuous
    max_episode_steps: int | None

    def reset(self) -> np.ndarray:
        """All instances begin: observations [B, ...]."""

    def step(self, actions: np.ndarray) -> TimeStep:
        """One step of all instances, in whatever types the package has."""

    def explain(self, error: Exception) -> tuple[int | None, str]:
        """Which instance an error of theirs is from, where that is known, and what happened."""

    def close(self) -> None:
        """Ends all instances."""


class HostEnvironment:
    """B instances that step together, as numpy arrays with a leading axis B, float32 and bool.

    Observations of bytes are pictures: they are divided by 255.

    Attributes:
      name, observation_shape, actions, max_episode_steps: as of :class:`~gempi_jax.rl.env.Environment`; no limit is
        ``None``.
      num_envs: B.
      driver: which has them.
      render: there are no pictures.
    """

    render = None

    def __init__(self, driver: Driver):
        self.driver = driver
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=driver.name)
        self._pending: concurrent.futures.Future | None = None
        self._steps = 0
        self.name = driver.name
        self.num_envs = driver.num_envs
        self.observation_shape = driver.observation_shape
        self.actions = driver.actions
        self.max_episode_steps = driver.max_episode_steps

    @property
    def carried(self) -> PyTree:
        """What of the driver outlives episodes, as arrays: its ``carried``, moving statistics, say; mostly ``()``."""
        return getattr(self.driver, "carried", ())

    @carried.setter
    def carried(self, carried: PyTree) -> None:
        if self.carried != ():
            self.driver.carried = carried

    def reset(self) -> np.ndarray:
        """All instances begin: observations [B, ...].

        Raises:
          EnvironmentFailed: one died, or gave what is no number.
        """
        observation = _floats(self._guarded(self.driver.reset))
        require_finite(self.name, self._steps, observation=observation[None])
        return observation

    def send(self, actions: np.ndarray) -> None:
        """Starts a step of all instances; :meth:`receive` waits for what follows.

        Raises:
          RuntimeError: the last step was not received yet.
        """
        if self._pending is not None:
            raise RuntimeError(f"{self.name}: a step is under way; receive it before the next is sent.")
        actions = np.asarray(actions)
        if isinstance(self.actions, Continuous):
            actions = np.clip(actions, *self.actions.bounds())
        self._pending = self._thread.submit(self._guarded, self.driver.step, actions)

    def receive(self) -> TimeStep:
        """What followed the actions that were sent.

        Raises:
          EnvironmentFailed: an instance died, or gave what is no number.
          RuntimeError: nothing was sent.
        """
        if self._pending is None:
            raise RuntimeError(f"{self.name}: no step is under way; send actions first.")
        pending, self._pending = self._pending, None
        now = pending.result()
        # Copies: some packages write each step into the same arrays.
        terminated = np.array(now.terminated, bool)
        step = TimeStep(
            _floats(now.observation),
            np.array(now.reward, np.float32),
            terminated,
            np.asarray(now.truncated, bool) & ~terminated,
            _floats(now.final_observation),
        )
        seen = {"reward": step.reward, "observation": step.final_observation, "first observation": step.observation}
        require_finite(self.name, self._steps, **{what: values[None] for what, values in seen.items()})
        self._steps += 1
        return step

    def step(self, actions: np.ndarray) -> TimeStep:
        """:meth:`send` and :meth:`receive`."""
        self.send(actions)
        return self.receive()

    def close(self) -> None:
        """Ends all instances; a step that is under way is waited for."""
        self._thread.shutdown(wait=True)
        self.driver.close()

    def __enter__(self) -> "HostEnvironment":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _guarded(self, function, *arguments):
        """function(*arguments), whose failure is one of this environment."""
        try:
            return function(*arguments)
        except Exception as error:
            index, what = self.driver.explain(error)
            who = "an instance" if index is None else f"instance {index}"
            raise EnvironmentFailed(
                f"{self.name}: {who} died at step {self._steps}: {what}. The run continues from its last checkpoint.",
                index,
                self._steps,
            ) from error


def _floats(observations: np.ndarray) -> np.ndarray:
    observations = np.asarray(observations)
    floats = observations.astype(np.float32)
    return floats / np.float32(255) if observations.dtype == np.uint8 else floats
