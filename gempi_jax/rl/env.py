"""What an environment is to us: pure functions of one instance, with its episodes' ends and beginnings in one place.

A user's own environment is a function that returns :func:`episodic` of two functions, ``reset`` and ``transition``; the
time limit, the next episode's beginning and the last observation of the old one are added there, once for all.
``jax.vmap`` makes many instances of one.  Environments that are no JAX programs: :mod:`gempi_jax.rl.host_env`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key, PyTree

from gempi_jax.numerics import named_key
from gempi_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Discrete:
    """Actions 0 ... n - 1, int32.

    Raises:
      ValueError: for n below 1.
    """

    n: int

    def __post_init__(self):
        if self.n < 1:
            raise ValueError(f"Discrete: n is {self.n}; an environment has at least one action.")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one action: a scalar."""
        return ()


@dataclasses.dataclass(frozen=True)
class Continuous:
    """Actions of real numbers, float32; an environment takes those outside its bounds as the nearest inside.

    Attributes:
      shape: of one action.
      low, high: bounds, one for all or one for each in the order of ``numpy.ravel``; infinite where there is none.

    Raises:
      ValueError: bounds that leave nothing between them, or of another number than there are actions.
    """

    shape: tuple[int, ...]
    low: float | tuple[float, ...] = -math.inf
    high: float | tuple[float, ...] = math.inf

    def __post_init__(self):
        size = math.prod(self.shape)
        for name in ("low", "high"):
            given = np.ravel(getattr(self, name))
            if given.size not in (1, size):
                raise ValueError(
                    f"Continuous: {name} has {given.size} numbers for shape {self.shape}; give one or {size}."
                )
        low, high = self.bounds()
        if not (low < high).all():
            raise ValueError(f"Continuous: low {self.low} is not below high {self.high}; swap or correct them.")

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Low and high, float32 arrays of ``shape``."""
        size = math.prod(self.shape)
        low, high = (np.broadcast_to(np.ravel(x).astype(np.float32), (size,)) for x in (self.low, self.high))
        return low.reshape(self.shape), high.reshape(self.shape)


class TimeStep(NamedTuple):
    """What follows an action.

    Attributes:
      observation: what the policy acts on next; where an episode ended, the first of the next one.
      reward: r_t.
      terminated: the episode ended in a state that has no future.
      truncated: it was cut off by the time limit: what would have followed is worth V(``final_observation``).
      final_observation: s_{t+1} of the episode that the action belongs to, whether it ended or not.
    """

    observation: Float[Array | np.ndarray, "..."]
    reward: Float[Array | np.ndarray, "*B"]
    terminated: Bool[Array | np.ndarray, "*B"]
    truncated: Bool[Array | np.ndarray, "*B"]
    final_observation: Float[Array | np.ndarray, "..."]


@dataclasses.dataclass(frozen=True, eq=False)
class Environment:
    """One instance of an environment, as pure functions.

    All that they return has its strong type (float32, int32, bool), so that a second call compiles nothing.

    Attributes:
      name: for reports and errors.
      observation_shape: of one observation, float32.
      actions: what may be done.
      max_episode_steps: after which an episode is truncated.
      reset: key -> (state, observation).
      step: (key, state, action) -> (state, :class:`TimeStep`).
      render: state -> a picture, uint8 [H, W, 3]; ``None`` where there is none.
    """

    name: str
    observation_shape: tuple[int, ...]
    actions: Discrete | Continuous
    max_episode_steps: int
    reset: Callable[[Key[Array, ""]], tuple[PyTree, Float[Array, "..."]]]
    step: Callable[[Key[Array, ""], PyTree, Array], tuple[PyTree, TimeStep]]
    render: Callable[[PyTree], Array | np.ndarray] | None = None


class Episode(NamedTuple):
    """The state of an environment made by :func:`episodic`: the world's own and the steps since its beginning."""

    world: PyTree
    elapsed: Int[Array, ""]


def episodic(
    name: str,
    *,
    observation_shape: tuple[int, ...],
    actions: Discrete | Continuous,
    max_episode_steps: int,
    reset: Callable,
    transition: Callable,
    render: Callable | None = None,
) -> Environment:
    """An environment whose episodes follow one another, from what happens inside one.

    Args:
      name: for reports and errors.
      observation_shape: of one observation.
      actions: what may be done.
      max_episode_steps: steps after which an episode that has not terminated is truncated.
      reset: key -> (world, observation): how an episode begins.
      transition: (key, world, action) -> (world, observation, reward, terminated), of one step, knowing no time limit.
      render: world -> uint8 [H, W, 3].

    Raises:
      ValueError: a limit below 1; functions that do not return what is said here, or a world that changes its shape.
    """
    if max_episode_steps < 1:
        raise ValueError(f"{name}: max_episode_steps is {max_episode_steps}; an episode has at least one step.")
    _check(name, observation_shape, actions, reset, transition)

    def begin(key):
        world, observation = reset(key)
        return Episode(jax.tree.map(_strong, world), jnp.int32(0)), _strong(observation, jnp.float32)

    def step(key, state, action):
        if isinstance(actions, Continuous):
            action = jnp.clip(action, *actions.bounds())
        world, observation, reward, terminated = transition(named_key(key, "transition"), state.world, action)
        first, first_observation = begin(named_key(key, "reset"))
        now = Episode(jax.tree.map(lambda x, like: _strong(x, like.dtype), world, first.world), state.elapsed + 1)
        terminated = _strong(terminated, bool)
        truncated = (now.elapsed >= max_episode_steps) & ~terminated
        ended = terminated | truncated
        observation = _strong(observation, jnp.float32)
        state, shown = jax.tree.map(
            lambda new, old: jax.lax.select(ended, new, old), (first, first_observation), (now, observation)
        )
        return state, TimeStep(shown, _strong(reward, jnp.float32), terminated, truncated, observation)

    picture = None if render is None else lambda state: render(state.world)
    return Environment(name, observation_shape, actions, max_episode_steps, begin, step, picture)


def _strong(x, dtype=None) -> Array:
    """x as an array that is of a dtype by itself, not by what it meets."""
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jax.dtypes.extended):  # random keys
        return x
    return jax.lax.convert_element_type(x, dtype or x.dtype)


def require_actions(environment, served: type, by: str) -> None:
    """Raises ValueError where an environment's actions are not of the kind that somebody serves.

    Args:
      environment: in JAX or on the host.
      served: :class:`Discrete` or :class:`Continuous`.
      by: who it is, for the error.
    """
    if not isinstance(environment.actions, served):
        raise ValueError(
            f"{environment.name}: its actions are {environment.actions}, and {by} serves {served.__name__} ones alone; "
            "choose another method, head or environment."
        )


def _check(name: str, observation_shape: tuple[int, ...], actions: Discrete | Continuous, reset, transition) -> None:
    """Raises ValueError where the two functions do not fit each other or what is declared; nothing is computed."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    action = jax.ShapeDtypeStruct(actions.shape, jnp.int32 if isinstance(actions, Discrete) else jnp.float32)
    begun = jax.eval_shape(reset, key)
    if not isinstance(begun, tuple) or len(begun) != 2:
        raise ValueError(f"{name}: reset returns a {type(begun).__name__}; return (world, observation).")
    after = jax.eval_shape(lambda key, world, action: transition(key, world, action), key, begun[0], action)
    if not isinstance(after, tuple) or len(after) != 4:
        raise ValueError(
            f"{name}: transition returns a {type(after).__name__}; return (world, observation, reward, terminated)."
        )
    for function, seen in (("reset", begun[1]), ("transition", after[1])):
        if getattr(seen, "shape", None) != observation_shape:
            shape = getattr(seen, "shape", type(seen).__name__)
            raise ValueError(f"{name}: {function} gives an observation of {shape}, declared is {observation_shape}.")
    for what, value in (("reward", after[2]), ("terminated", after[3])):
        if getattr(value, "shape", None) != ():
            raise ValueError(f"{name}: transition gives a {what} that is no scalar: {value}.")
    if jax.tree.structure(begun[0]) != jax.tree.structure(after[0]):
        raise ValueError(f"{name}: the world is {begun[0]} after reset and {after[0]} after a step; return alike.")
    pairs = zip(jax.tree_util.tree_leaves_with_path(begun[0]), jax.tree.leaves(after[0]), strict=True)
    for (path, first), then in pairs:
        if first.shape != then.shape or _kind(then) > _kind(first):
            where = jax.tree_util.keystr(path) or " as a whole"
            raise ValueError(
                f"{name}: the world's{where} is {first.dtype}{list(first.shape)} after reset, {then.dtype}"
                f"{list(then.shape)} after a step; begin it as what it becomes."
            )


def _kind(leaf) -> int:
    """bool, whole numbers, real numbers: what may be held by which."""
    return sum(jnp.issubdtype(leaf.dtype, kind) for kind in (jnp.number, jnp.inexact))
