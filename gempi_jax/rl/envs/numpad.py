"""Numpad: N x N pads, and a hidden sequence of them to be found out and then repeated as often as time allows.

Stepping onto the pad that is next in the sequence lights it; any other pad puts all of them out, and the sequence has
to be begun again.  Each pad of the sequence is worth 1, once, until the whole of it is lit; then all go out and it may
be repeated for more.  Successive pads are neighbours (diagonally too) and none comes twice.

The rules are the paper's; its robot rolls over the pads in continuous space, ours steps from pad to pad.
Source: Parisotto et al. 2020, Stabilizing transformers for reinforcement learning, section 4.2; Humplik et al. 2019.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from gempi_jax.numerics import named_key
from gempi_jax.rl import pictures
from gempi_jax.rl.env import Discrete, Environment, episodic
from gempi_jax.types import Array

# Stay, then clockwise from above: (row, column).
MOVES = np.asarray([(0, 0), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)])
_MOST = 4_000_000


class NumpadState(NamedTuple):
    """The sequence, the agent's pad, how many pads are lit, and the most that were since all went out by completion."""

    sequence: Int[Array, "L"]
    pad: Int[Array, ""]
    lit: Int[Array, ""]
    rewarded: Int[Array, ""]


def numpad(size: int = 2, *, length: int | None = None, max_episode_steps: int = 500) -> Environment:
    """Numpad; observations are [where the agent is, one-hot over the pads; which pads are lit].

    Args:
      size: N, pads along a side.
      length: of the sequence; all N^2 pads where it is ``None``.
      max_episode_steps: the paper's.

    Raises:
      ValueError: fewer than two pads, or a sequence that does not fit or is one of more than four million.
    """
    if size < 2 or (length is not None and not 1 <= length <= size**2):
        raise ValueError(f"numpad: size is {size}, length {length}; give a size from 2 and a length from 1 to size^2.")
    table = sequences(size, length or size**2)

    def observe(state):
        pads, order = jnp.arange(size**2), jnp.arange(table.shape[1])
        lit = jnp.any((state.sequence[:, None] == pads[None]) & (order < state.lit)[:, None], axis=0)
        return jnp.concatenate([pads == state.pad, lit]).astype(jnp.float32)

    def reset(key):
        row = jax.random.randint(named_key(key, "sequence"), (), 0, len(table))
        pad = jax.random.randint(named_key(key, "pad"), (), 0, size**2)
        state = NumpadState(jnp.asarray(table)[row].astype(jnp.int32), pad, jnp.int32(0), jnp.int32(0))
        return state, observe(state)

    def transition(key, state, action):
        place = jnp.stack([state.pad // size, state.pad % size]) + jnp.asarray(MOVES)[action]
        pad = jnp.where(jnp.all((place >= 0) & (place < size)), place[0] * size + place[1], state.pad)
        lit = jnp.where(pad == state.sequence[state.lit], state.lit + 1, 0)
        lit = jnp.where(pad == state.pad, state.lit, lit)
        reward = (lit > state.rewarded).astype(jnp.float32)
        complete = lit == table.shape[1]
        rewarded = jnp.where(complete, 0, jnp.maximum(lit, state.rewarded))
        after = NumpadState(state.sequence, pad, jnp.where(complete, 0, lit), rewarded)
        return after, observe(after), reward, False

    def render(state):
        lit = observe(state)[size**2 :] > 0
        board = jnp.where(lit, pictures.YELLOW, pictures.GREY).at[state.pad].set(pictures.BLUE)
        return pictures.cells(board.reshape(size, size))

    return episodic(
        f"Numpad-{size}x{size}",
        observation_shape=(2 * size**2,),
        actions=Discrete(len(MOVES)),
        max_episode_steps=max_episode_steps,
        reset=reset,
        transition=transition,
        render=render,
    )


@functools.cache
def sequences(size: int, length: int) -> np.ndarray:
    """All sequences of neighbouring pads without a repetition, uint8 [number, length]; each is as likely as another."""
    pads = np.stack(np.unravel_index(np.arange(size**2), (size, size)), axis=1)
    near = np.abs(pads[:, None] - pads[None]).max(-1) == 1
    found = np.arange(size**2, dtype=np.uint8)[:, None]
    for _ in range(length - 1):
        free = near[found[:, -1]]
        np.put_along_axis(free, found.astype(np.int64), False, axis=1)
        before, pad = np.nonzero(free)
        if len(before) > _MOST:
            raise ValueError(f"numpad: size {size} has millions of sequences of length {length}; give a lesser one.")
        found = np.concatenate([found[before], pad[:, None].astype(np.uint8)], axis=1)
    return found
