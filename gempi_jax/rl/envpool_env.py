"""envpool's environments: many instances of MuJoCo, DM Control, Atari and others in one pool of threads."""

import warnings
from typing import Any

import numpy as np

from gempi_jax import user_code
from gempi_jax.rl import optional
from gempi_jax.rl.env import TimeStep
from gempi_jax.rl.gymnasium_env import action_space, observation_shape
from gempi_jax.rl.host_env import HostEnvironment


def envpool_environment(name: str, *, num_envs: int, seed: int = 0, **options: Any) -> HostEnvironment:
    """Instances of an envpool environment by its id, such as ``"HalfCheetah-v4"``.

    Args:
      name: in envpool's registry.
      num_envs: how many.
      seed: of all of them; envpool draws each one's from it.
      options: of ``envpool.make``.

    Raises:
      ValueError: an id that there is not; observations or actions that are no single array.
    """
    known = optional.module("envpool", "envpool").list_all_envs()
    if name not in known:
        raise ValueError(f"envpool: there is no environment {name!r}{optional.nearest(name, known)}.")
    if num_envs < 1:
        raise ValueError(f"envpool/{name}: num_envs is {num_envs}; give at least one.")
    return HostEnvironment(_Envpool(name, num_envs, seed, options))


class _Envpool:
    """A pool in step, in which those whose episode ended are begun again at once, not by the next step."""

    def __init__(self, name: str, num_envs: int, seed: int, options: dict[str, Any]):
        envpool = optional.module("envpool", "envpool")
        self.name, self.num_envs = f"envpool/{name}", num_envs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # bounds of float64 as float32
            try:
                self._pool = envpool.make(name, env_type="gymnasium", num_envs=num_envs, seed=seed, **options)
            except Exception as error:
                raise ValueError(
                    f"{self.name} with options {options} cannot be made: {user_code.describe(error)}"
                ) from error
            space = self._pool.action_space
            self.observation_shape = observation_shape(self.name, self._pool.observation_space)
        self.actions = action_space(self.name, space)
        self._dtype, self._start = space.dtype, getattr(space, "start", 0)
        self.max_episode_steps = self._pool.spec.config.max_episode_steps

    def reset(self) -> np.ndarray:
        return self._pool.reset()[0]

    def step(self, actions: np.ndarray) -> TimeStep:
        final, reward, terminated, truncated, _ = self._pool.step(actions.astype(self._dtype) + self._start)
        ended = np.flatnonzero(terminated | truncated).astype(np.int32)
        observation = final
        if len(ended):
            observation = final.copy()
            observation[ended] = self._pool.reset(ended)[0]
        return TimeStep(observation, reward, terminated, truncated, final)

    def explain(self, error: Exception) -> tuple[int | None, str]:
        return None, user_code.describe(error)

    def close(self) -> None:
        self._pool.close()
