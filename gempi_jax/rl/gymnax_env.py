"""Environments of gymnax, written in JAX: classic control, MinAtar, bsuite and others.

Its dynamics are untouched; the time limit, the next episode and strong types are those of
:func:`gempi_jax.rl.env.episodic`.
"""

import dataclasses
import inspect
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from gempi_jax.rl import optional, pictures
from gempi_jax.rl.env import Continuous, Discrete, Environment, episodic


def names() -> list[str]:
    """The environments of the installed gymnax.

    Raises:
      ImportError: without it.
    """
    return list(_gymnax().registered_envs)


def gymnax_environment(name: str, *, max_episode_steps: int | None = None, **options: Any) -> Environment:
    """A gymnax environment by its name, such as ``"CartPole-v1"``.

    Args:
      name: in gymnax's own registry.
      max_episode_steps: its time limit, gymnax's where it is ``None``.
      options: fields of its parameters (``memory_length`` of MemoryChain-bsuite) and arguments of its class
        (``num_bits``).

    Raises:
      ValueError: an option that it has not; observations or actions that are no single array.
    """
    gymnax = _gymnax()
    made, parameters = gymnax.make(name)
    fields = {field.name for field in dataclasses.fields(parameters)} - {"max_steps_in_episode"}
    arguments = set(inspect.signature(type(made)).parameters)
    optional.check_options(name, options, fields | arguments | {"max_episode_steps"})
    made, parameters = gymnax.make(name, **{key: value for key, value in options.items() if key in arguments})
    parameters = parameters.replace(**{key: value for key, value in options.items() if key in fields})
    limit = int(parameters.max_steps_in_episode) if max_episode_steps is None else max_episode_steps

    def reset(key):
        observation, state = made.reset_env(key, parameters)
        return state, observation

    def transition(key, state, action):
        observation, state, reward, terminated, _ = made.step_env(key, state, action, parameters)
        return state, observation, reward, terminated

    observation = jax.eval_shape(lambda: reset(jax.random.key(0))[1])
    if not hasattr(observation, "shape"):
        raise ValueError(f"{name}: its observations are {observation}; environments whose observation is one array do.")

    def seen(state):
        features = jnp.asarray(made.observe(jax.random.key(0), state, None, parameters), jnp.float32)
        if features.ndim == 3:
            return pictures.channels(features)
        return pictures.values(jnp.atleast_2d(features))

    return episodic(
        name,
        observation_shape=observation.shape,
        actions=_actions(name, made.action_space(parameters)),
        max_episode_steps=limit,
        reset=reset,
        transition=transition,
        render=_PICTURES.get(name, seen),
    )


def _cart_pole(state):
    x = state.x / 2.4
    pole = x + 0.8 * jnp.sin(state.theta), -0.5 + 0.8 * jnp.cos(state.theta)
    track, cart = (-1.0, -0.6, 1.0, -0.6), (x - 0.15, -0.5, x + 0.15, -0.5)
    ends = jnp.asarray([track, cart, (x, -0.5, *pole)], jnp.float32)
    return pictures.rods(ends, (pictures.GREY, pictures.BLACK, pictures.ORANGE))


def _pendulum(state):
    ends = jnp.asarray([(0.0, 0.0, -0.8 * jnp.sin(state.theta), 0.8 * jnp.cos(state.theta))], jnp.float32)
    return pictures.rods(ends, (pictures.RED,))


# Elsewhere the picture is of what the agent sees.
_PICTURES = {"CartPole-v1": _cart_pole, "Pendulum-v1": _pendulum}


def _gymnax() -> ModuleType:
    return optional.module("gymnax", "environments")


def _actions(name: str, space) -> Discrete | Continuous:
    kind = type(space).__name__
    if kind == "Discrete":
        return Discrete(int(space.n))
    if kind == "Box":
        low, high = (jnp.broadcast_to(jnp.asarray(x, jnp.float32), space.shape) for x in (space.low, space.high))
        return Continuous(tuple(space.shape), tuple(low.ravel().tolist()), tuple(high.ravel().tolist()))
    raise ValueError(f"{name}: its actions are a {kind}; one choice (Discrete) or one array of numbers (Box) do.")
