"""Numpad's rules by hand, and its sequences counted and sampled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.rl import make
from gempi_jax.rl.env import Episode
from gempi_jax.rl.envs.numpad import MOVES, NumpadState, sequences

STAY, UP, RIGHT, DOWN, LEFT = (MOVES.tolist().index(move) for move in ([0, 0], [-1, 0], [0, 1], [1, 0], [0, -1]))
DOWN_LEFT = MOVES.tolist().index([1, -1])


def play(environment, state, actions):
    """Rewards and final observations of a run of actions, and the state after it."""

    def step(state, action):
        return environment.step(jax.random.key(1), state, action)

    state, now = jax.jit(lambda state, actions: jax.lax.scan(step, state, actions))(state, jnp.asarray(actions))
    return np.asarray(now.reward), np.asarray(now.final_observation), state, now


def begin(sequence, pad):
    return Episode(NumpadState(jnp.asarray(sequence), jnp.int32(pad), jnp.int32(0), jnp.int32(0)), jnp.int32(0))


def test_the_rules_by_hand():
    # Pads 0 1 / 2 3, the sequence 1 3 2 0, the agent on 0.
    environment = make("Numpad", size=2)
    actions = [RIGHT, STAY, DOWN, UP, DOWN, LEFT, UP, RIGHT, DOWN, LEFT, UP, RIGHT]
    # pad       1      1     3     1*    3+    2#    0#    1     3     2     0     1
    # +1 for 1; staying presses nothing; +1 for 3; 1 is lit already, not next: all out (*); 3 is not the first (+), nor
    # are 2 and 0 (#); 1 and 3 light again for nothing; +1 for 2, +1 for 0, all out by completion; +1 for 1 again.
    rewards, seen, *_ = play(environment, begin([1, 3, 2, 0], 0), actions)
    np.testing.assert_array_equal(rewards, [1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(seen[:, :4].argmax(1), [1, 1, 3, 1, 3, 2, 0, 1, 3, 2, 0, 1])
    lit = [[1], [1], [1, 3], [], [], [], [], [1], [1, 3], [1, 2, 3], [], [1]]
    np.testing.assert_array_equal(seen[:, 4:], [[pad in pads for pad in range(4)] for pads in lit])


def test_the_edge_stops_and_presses_nothing():
    environment = make("Numpad", size=2)
    _, seen, *_ = play(environment, begin([0, 1, 3, 2], 1), [UP, RIGHT, DOWN_LEFT, DOWN])
    np.testing.assert_array_equal(seen[:, :4].argmax(1), [1, 1, 2, 2])
    assert not seen[:, 4:].any()


def test_who_knows_the_sequence_earns_a_reward_a_step():
    environment = make("Numpad", size=2)
    around = [DOWN, LEFT, UP, RIGHT]  # 1 3 2 0 from 0 on: the first step is to 1
    rewards, _, _, now = play(environment, begin([1, 3, 2, 0], 0), [RIGHT] + around * 125)
    assert rewards[:500].sum() == 500
    np.testing.assert_array_equal(np.flatnonzero(now.truncated), [499])
    assert not now.terminated.any()


@pytest.mark.parametrize(("size", "length", "number"), [(2, 4, 24), (2, 1, 4), (3, 2, 40), (3, 9, 784)])
def test_the_number_of_sequences(size, length, number):
    # 2 x 2: all 4! orders.  3 x 3: 4 corners with 3 neighbours, 4 edges with 5, the middle with 8: 40 pairs; the king's
    # paths over all nine squares are 784.
    found = sequences(size, length)
    assert found.shape == (number, length)
    assert len(np.unique(found, axis=0)) == number
    assert all(len(set(sequence)) == length for sequence in found.tolist())
    rows, columns = found // size, found % size
    steps = np.maximum(np.abs(np.diff(rows.astype(int))), np.abs(np.diff(columns.astype(int))))
    assert (steps == 1).all()


def test_sequences_and_pads_are_drawn_evenly():
    environment = make("Numpad", size=2)
    state, _ = jax.jit(jax.vmap(environment.reset))(jax.random.split(jax.random.key(0), 4800))
    _, counts = np.unique(np.asarray(state.world.sequence), axis=0, return_counts=True)
    assert len(counts) == 24
    # 200 each with a standard deviation of 13.8; five of them.
    assert np.abs(counts - 200).max() < 70
    assert np.abs(np.bincount(state.world.pad) - 1200).max() < 150


@pytest.mark.parametrize("options", [{"size": 1}, {"size": 2, "length": 5}, {"size": 2, "length": 0}])
def test_what_does_not_fit_is_refused(options):
    with pytest.raises(ValueError, match="give a size from 2 and a length from 1"):
        make("Numpad", **options)


def test_too_many_sequences_are_refused():
    with pytest.raises(ValueError, match="size 6 has millions of sequences of length 36"):
        make("Numpad", size=6)
