"""The T-maze: a sign at the start says which arm at the far end of a corridor is the right one.

A step that does not bring the agent nearer to the junction costs 1 / length; the right arm is worth 1, the other -1.
So walking straight on and turning the right way returns 1, and guessing 0.  The corridor looks the same everywhere.

Source: Bakker 2001, Reinforcement learning with long short-term memory; the cost of not advancing as in Ni et al. 2023,
When do transformers shine in RL?
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Int

from gempi_jax.rl import pictures
from gempi_jax.rl.env import Discrete, Environment, episodic
from gempi_jax.types import Array

FORWARD, BACK, LEFT, RIGHT = range(4)


class TMazeState(NamedTuple):
    """The right arm's side, -1 (left) or 1 (right), and how far the agent has come: at the junction, the length."""

    side: Int[Array, ""]
    position: Int[Array, ""]


def t_maze(length: int = 64, *, max_episode_steps: int | None = None) -> Environment:
    """A T-maze; observations are [the sign, -1 or 1, at the start and else 0; at the start; at the junction].

    Args:
      length: steps from the start to the junction.
      max_episode_steps: twice what is needed where it is ``None``.

    Raises:
      ValueError: for a length below 1.
    """
    if length < 1:
        raise ValueError(f"t_maze: length is {length}; a corridor has at least one step.")

    def observe(state):
        start = state.position == 0
        return jnp.stack([jnp.where(start, state.side, 0), start, state.position == length]).astype(jnp.float32)

    def reset(key):
        state = TMazeState(2 * jax.random.randint(key, (), 0, 2) - 1, jnp.int32(0))
        return state, observe(state)

    def transition(key, state, action):
        turned = (state.position == length) & (action >= LEFT)
        right = (action == RIGHT) == (state.side == 1)
        moved = jnp.int32(action == FORWARD) - jnp.int32(action == BACK)
        after = TMazeState(state.side, jnp.clip(state.position + moved, 0, length))
        step = jnp.where(after.position > state.position, 0.0, -1.0 / length)
        return after, observe(after), jnp.where(turned, jnp.where(right, 1.0, -1.0), step), turned

    def render(state):
        board = jnp.full((3, length + 1), pictures.BLACK).at[1].set(pictures.BACKGROUND)
        arms = jnp.where(state.side == 1, jnp.asarray([pictures.RED, 0, pictures.GREEN]), 0)
        arms = jnp.where(state.side == -1, jnp.asarray([pictures.GREEN, 0, pictures.RED]), arms)
        return pictures.cells(board.at[:, length].set(arms).at[1, state.position].set(pictures.BLUE))

    return episodic(
        f"TMaze-{length}",
        observation_shape=(3,),
        actions=Discrete(4),
        max_episode_steps=2 * (length + 1) if max_episode_steps is None else max_episode_steps,
        reset=reset,
        transition=transition,
        render=render,
    )
