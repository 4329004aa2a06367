"""Environments of xminigrid, MiniGrid's worlds written in JAX.

Its dynamics are untouched; the time limit, the next episode and strong types are those of
:func:`gempi_jax.rl.env.episodic`.  The agent sees the square of cells before it, each as one-hot kinds of tile and
colour; it looks through walls, as xminigrid has it.
"""

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

from gempi_jax.rl import optional
from gempi_jax.rl.env import Discrete, Environment, episodic

# Sizes that MiniGrid has and xminigrid's registry has not.
_MEMORY = {f"MiniGrid-MemoryS{size}": size for size in (7, 9, 11, 13, 17)}


def names() -> list[str]:
    """The environments of the installed xminigrid, and MiniGrid's memory worlds of other sizes.

    Raises:
      ImportError: without it.
    """
    return [*_xminigrid("").registered_environments(), *_MEMORY]


def xminigrid_environment(
    name: str, *, view_size: int | None = None, num_actions: int | None = None, max_episode_steps: int | None = None
) -> Environment:
    """A world of xminigrid by its name, such as ``"MiniGrid-MemoryS8"``.

    Args:
      name: in xminigrid's own registry, or ``MiniGrid-MemoryS7, 9, 11, 13, 17``.
      view_size: cells along the side of what the agent sees, odd; xminigrid's where it is ``None``.
      num_actions: the first of forward, turn right, turn left, pick up, put down, toggle; all where it is ``None``.
      max_episode_steps: the time limit, which its rewards depend on; MiniGrid's where it is ``None``.

    Raises:
      ValueError: an even view, or a number of actions that there are not.
    """
    made, parameters = _make(name, {"view_size": view_size, "max_steps": max_episode_steps})
    types, constants = _xminigrid("types"), _xminigrid("core.constants")
    total = int(made.num_actions(parameters))
    number = num_actions or total
    if not 1 <= number <= total or parameters.view_size % 2 == 0:
        raise ValueError(
            f"{name}: num_actions is {num_actions} and view_size {parameters.view_size}; give at most {total} actions "
            "and an odd view."
        )

    def encode(seen):
        kinds = jax.nn.one_hot(seen[..., 0], constants.NUM_TILES), jax.nn.one_hot(seen[..., 1], constants.NUM_COLORS)
        return jnp.concatenate(kinds, axis=-1)

    def reset(key):
        now = made.reset(parameters, jax.random.key_data(key))  # kept in its state: plain numbers, as all else there
        return now.state, encode(now.observation)

    def transition(key, state, action):
        before = types.TimeStep(state=state, step_type=None, reward=None, discount=None, observation=None)
        now = made.step(parameters, before, action)
        return now.state, encode(now.observation), now.reward, now.discount == 0

    def render(state):
        draw = _xminigrid("rendering.rgb_render").render
        return np.asarray(draw(np.asarray(state.grid), state.agent, parameters.view_size), np.uint8)

    return episodic(
        name,
        observation_shape=(parameters.view_size,) * 2 + (constants.NUM_TILES + constants.NUM_COLORS,),
        actions=Discrete(number),
        max_episode_steps=int(parameters.max_steps),
        reset=reset,
        transition=transition,
        render=render,
    )


def _make(name: str, given: dict):
    """xminigrid's environment and its parameters, those that are given replaced."""
    made, parameters = _xminigrid("").make("MiniGrid-MemoryS8" if name in _MEMORY else name)
    if name in _MEMORY:
        parameters = made.default_params(width=_MEMORY[name])
    return made, parameters.replace(**{key: value for key, value in given.items() if value is not None})


def _xminigrid(module: str) -> ModuleType:
    return optional.module(f"xminigrid.{module}" if module else "xminigrid", "environments")
