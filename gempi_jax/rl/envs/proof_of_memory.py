"""ProofofMemory: which end of a line is good shows for three observations; then the agent may walk.

The rules of CleanRL's PPO-TrXL baseline.  The line runs from -1 to 1 in steps of 0.2; the agent begins at one of -0.4,
-0.2, 0, 0.2, 0.4 and stands still for two steps.  From then on a step costs 0.1, but the one that reaches an end, which
is worth 1.6 if it is the good one and else -1.6.  Straight to the good end returns 1.6 - 0.1 (n - 1) for n steps, on
average over beginnings n = 5: 1.2.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Int

from gempi_jax.numerics import named_key
from gempi_jax.rl import pictures
from gempi_jax.rl.env import Discrete, Environment, episodic
from gempi_jax.types import Array

LEFT, RIGHT = range(2)
END, FROZEN, COST, GOAL = 5, 2, 0.1, 1.6  # cells from the middle to an end; steps; rewards


class ProofOfMemoryState(NamedTuple):
    """The good end, -1 (left) or 1 (right), the agent's cell from -5 to 5, and steps since the beginning."""

    good: Int[Array, ""]
    cell: Int[Array, ""]
    elapsed: Int[Array, ""]


def proof_of_memory(*, max_episode_steps: int = 16) -> Environment:
    """ProofofMemory; observations are [left end, position in [-1, 1], right end]: good is 1, bad -1, hidden 0."""

    def observe(state):
        good = jnp.where(state.elapsed <= FROZEN, state.good, 0)
        return jnp.stack([-good, state.cell / END, good]).astype(jnp.float32)

    def reset(key):
        good = 2 * jax.random.randint(named_key(key, "good"), (), 0, 2) - 1
        state = ProofOfMemoryState(good, jax.random.randint(named_key(key, "cell"), (), -2, 3), jnp.int32(0))
        return state, observe(state)

    def transition(key, state, action):
        free = state.elapsed >= FROZEN
        cell = state.cell + jnp.where(free, jnp.where(action == RIGHT, 1, -1), 0)
        after = ProofOfMemoryState(state.good, cell, state.elapsed + 1)
        ended = jnp.abs(cell) == END
        goal = jnp.where(cell == END * state.good, GOAL, -GOAL)
        return after, observe(after), jnp.where(free, jnp.where(ended, goal, -COST), 0.0), ended

    def render(state):
        ends = jnp.where(state.elapsed <= FROZEN, state.good, 0)
        colours = jnp.asarray([pictures.RED, pictures.GREY, pictures.GREEN])
        line = jnp.full((1, 2 * END + 1), pictures.BACKGROUND)
        line = line.at[0, 0].set(colours[1 - ends]).at[0, -1].set(colours[1 + ends])
        return pictures.cells(line.at[0, END + state.cell].set(pictures.BLUE))

    return episodic(
        "ProofofMemory",
        observation_shape=(3,),
        actions=Discrete(2),
        max_episode_steps=max_episode_steps,
        reset=reset,
        transition=transition,
        render=render,
    )
