"""gymnasium's environments, stepped by its vector API in this process or in one process each."""

import functools
import importlib
import multiprocessing.connection
import re
from typing import Any

import numpy as np

from gempi_jax import user_code
from gempi_jax.rl import optional
from gempi_jax.rl.env import Continuous, Discrete, TimeStep
from gempi_jax.rl.host_env import HostEnvironment


def gymnasium_environment(
    name: str, *, num_envs: int, seed: int = 0, processes: bool = False, **options: Any
) -> HostEnvironment:
    """Instances of a gymnasium environment by its id, such as ``"CartPole-v1"``.

    Args:
      name: in gymnasium's registry; ``"module:id"`` imports the module that registers it.
      num_envs: how many.
      seed: of the first; the next has the next.
      processes: whether each has a process of its own.
      options: of ``gymnasium.make``.

    Raises:
      ValueError: an id that there is not; observations or actions that are no single array.
    """
    registry = optional.module("gymnasium", "environments").registry
    module, _, identifier = name.rpartition(":")
    if module:
        _register(name, module)
    if identifier not in registry:
        raise ValueError(f"gymnasium: there is no environment {name!r}{optional.nearest(name, registry)}.")
    if num_envs < 1:
        raise ValueError(f"gymnasium/{name}: num_envs is {num_envs}; give at least one.")
    return HostEnvironment(_Gymnasium(name, num_envs, seed, processes, options))


def _register(name: str, module: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as error:
        raise ValueError(
            f"gymnasium/{name}: the module {module!r} cannot be imported: {user_code.describe(error)}. Install it, or "
            "start Python where it can be found."
        ) from error


class _Gymnasium:
    """Its vector API, where an episode follows another within a step."""

    def __init__(self, name: str, num_envs: int, seed: int, processes: bool, options: dict[str, Any]):
        gymnasium = optional.module("gymnasium", "environments")
        self.name, self.num_envs, self._seed = f"gymnasium/{name}", num_envs, seed
        instances = [functools.partial(_instance, name, index, options) for index in range(num_envs)]
        mode = {"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}
        try:
            if processes:  # started afresh: a fork of a process that has threads, as jax has, may hang
                self._vector = gymnasium.vector.AsyncVectorEnv(instances, context="spawn", **mode)
            else:
                self._vector = gymnasium.vector.SyncVectorEnv(instances, **mode)
        except Exception as error:
            raise ValueError(
                f"{self.name} with options {options} cannot be made: {user_code.describe(error)}"
            ) from error
        self._processes = getattr(self._vector, "processes", [])
        self.observation_shape = observation_shape(self.name, self._vector.single_observation_space)
        self.actions = action_space(self.name, self._vector.single_action_space)
        limit = gymnasium.spec(name.rpartition(":")[2]).max_episode_steps
        self.max_episode_steps = options.get("max_episode_steps", limit)

    def reset(self) -> np.ndarray:
        return self._vector.reset(seed=self._seed)[0]

    def step(self, actions: np.ndarray) -> TimeStep:
        start = getattr(self._vector.single_action_space, "start", 0)
        actions = actions.astype(self._vector.action_space.dtype) + start
        observation, reward, terminated, truncated, info = self._vector.step(actions)
        final = observation.copy()
        for index in np.flatnonzero(terminated | truncated):
            final[index] = info["final_obs"][index]
        return TimeStep(observation, reward, terminated, truncated, final)

    def explain(self, error: Exception) -> tuple[int | None, str]:
        marked = re.match(_MARK.format(r"(\d+)") + "(.*)", str(error), re.DOTALL)
        if marked:
            return int(marked[1]), marked[2]
        if self._processes and isinstance(error, EOFError | OSError):  # nobody at the other end: one is about to end
            ended = multiprocessing.connection.wait([each.sentinel for each in self._processes], timeout=10)
            for process in self._processes:
                process.join(10 if process.sentinel in ended else 0)
        dead = [index for index, process in enumerate(self._processes) if not process.is_alive()]
        if dead:
            return dead[0], f"its process ended with code {self._processes[dead[0]].exitcode}"
        return None, user_code.describe(error)

    def close(self) -> None:
        if all(process.is_alive() for process in self._processes):
            self._vector.close()
            return
        for process in self._processes:  # gymnasium would wait for the answer of one that is gone
            process.terminate()
            process.join()
        self._vector.closed = True


# A worker sends back no more than the type and the text of what its environment raised.
_MARK = "instance {}: "


def _instance(name: str, index: int, options: dict[str, Any]) -> Any:
    """One instance, whose errors say which it is."""
    gymnasium, mark = importlib.import_module("gymnasium"), _MARK.format(index)

    class Marked(gymnasium.Wrapper):
        def step(self, action):
            return marked(self.env.step, action)

        def reset(self, **options):
            return marked(self.env.reset, **options)

    def marked(function, *arguments, **options):
        try:
            return function(*arguments, **options)
        except Exception as error:
            raise RuntimeError(f"{mark}{type(error).__name__}: {error}") from error

    return Marked(gymnasium.make(name, **options))


def observation_shape(name: str, space) -> tuple[int, ...]:
    """The shape of one observation.

    Raises:
      ValueError: observations that are no array.
    """
    if type(space).__name__ != "Box":
        raise ValueError(f"{name}: its observations are a {type(space).__name__}; wrap it so that they are one array.")
    return tuple(space.shape)


def action_space(name: str, space) -> Discrete | Continuous:
    """What a space of gymnasium's is to us.

    Raises:
      ValueError: a space that is neither one choice nor one array of numbers.
    """
    if type(space).__name__ == "Discrete":
        return Discrete(int(space.n))
    if type(space).__name__ == "Box":
        return Continuous(tuple(space.shape), tuple(space.low.ravel().tolist()), tuple(space.high.ravel().tolist()))
    raise ValueError(
        f"{name}: its actions are a {type(space).__name__}; one choice (Discrete) or one array of numbers (Box) do."
    )
