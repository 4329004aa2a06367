"""Observations of a host environment less their moving mean, over their moving standard deviation."""

import numpy as np
from jaxtyping import Float, PyTree

from gempi_jax.rl.env import TimeStep
from gempi_jax.rl.host_env import Driver, HostEnvironment

SMALLEST = 1e-4
"""Of a standard deviation, for what never moves."""


class Normalized:
    """A driver whose observations are (o - mean) / deviation of all that came before them, cut at ``limit``.

    The policy acts on, and learns from, what it was shown; old observations are not normalised anew.  Rewards are as
    they were.

    Attributes:
      name, num_envs, observation_shape, actions, max_episode_steps: of the driver.
    """

    def __init__(self, driver: Driver, limit: float = 10.0):
        self._driver, self._limit = driver, limit
        self.name, self.num_envs = driver.name, driver.num_envs
        self.observation_shape, self.actions = driver.observation_shape, driver.actions
        self.max_episode_steps = driver.max_episode_steps
        shape = driver.observation_shape
        self._count, self._mean, self._squares = 0.0, np.zeros(shape), np.zeros(shape)

    @property
    def carried(self) -> PyTree:
        """Count, mean, and mean squared deviation."""
        variance = self._squares / max(self._count, 1.0)
        return tuple(np.asarray(x, np.float32) for x in (self._count, self._mean, variance))

    @carried.setter
    def carried(self, carried: PyTree) -> None:
        count, mean, variance = (np.asarray(x, np.float64) for x in carried)
        self._count, self._mean, self._squares = float(count), mean, variance * float(count)

    def reset(self) -> np.ndarray:
        """All instances begin; what they show counts."""
        observations = self._driver.reset()
        self._count_in(observations)
        return self._shown(observations)

    def step(self, actions: np.ndarray) -> TimeStep:
        """One step; each episode's observations count, its last one too."""
        now = self._driver.step(actions)
        self._count_in(now.final_observation)
        observation, final = self._shown(now.observation), self._shown(now.final_observation)
        return now._replace(observation=observation, final_observation=final)

    def explain(self, error: Exception) -> tuple[int | None, str]:
        """The driver's."""
        return self._driver.explain(error)

    def close(self) -> None:
        """The driver's."""
        self._driver.close()

    def _shown(self, observations: np.ndarray) -> np.ndarray:
        deviation = np.maximum(np.sqrt(self._squares / max(self._count, 1.0)), SMALLEST)
        shown = np.clip((observations - self._mean) / deviation, -self._limit, self._limit)
        return np.where(np.isfinite(observations), shown, observations)

    def _count_in(self, observations: Float[np.ndarray, "B ..."]) -> None:
        """Moments of two sets are those of their union (Chan et al. 1979): no difference of large numbers is taken."""
        finite = np.isfinite(observations).reshape(len(observations), -1).all(axis=1)
        if not finite.any():
            return
        observations = observations[finite]
        number, mean = len(observations), np.mean(observations, axis=0, dtype=np.float64)
        total, shift = self._count + number, mean - self._mean
        squares = np.square(observations - mean).sum(axis=0)
        self._squares = self._squares + squares + np.square(shift) * self._count * number / total
        self._mean, self._count = self._mean + shift * number / total, total


def normalized(environment: HostEnvironment, limit: float = 10.0) -> HostEnvironment:
    """The same instances, whose observations have mean 0 and deviation 1, as far as they are known.

    What is not finite stays so, and is named when it is received.

    Args:
      environment: not begun yet.
      limit: to which observations are cut, in deviations.
    """
    return HostEnvironment(Normalized(environment.driver, limit))


__all__ = ["Normalized", "normalized"]
