"""ProofofMemory by hand: CleanRL's rules, and its published optimum of 1.2."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.rl import make
from gempi_jax.rl.env import Episode
from gempi_jax.rl.envs.proof_of_memory import LEFT, RIGHT, ProofOfMemoryState

ENVIRONMENT = make("ProofofMemory")


@jax.jit
def play(good, cell, actions):
    """A run of actions from a beginning, by field of its time steps."""

    def step(state, action):
        return ENVIRONMENT.step(jax.random.key(1), state, action)

    state = Episode(ProofOfMemoryState(jnp.int32(good), jnp.int32(cell), jnp.int32(0)), jnp.int32(0))
    return jax.lax.scan(step, state, actions)[1]


def test_the_rules_by_hand():
    # From 0.4, the left end good: two steps on the spot, free of charge, with the ends in view; then 0.2, 0.4, 0.6, 0.8
    # at 0.1 each, and the bad end: -1.6.
    now = play(-1, 2, jnp.asarray([LEFT, RIGHT, LEFT, RIGHT, RIGHT, RIGHT, RIGHT]))
    np.testing.assert_allclose(now.reward, [0, 0, -0.1, -0.1, -0.1, -0.1, -1.6], rtol=1e-6)
    np.testing.assert_array_equal(now.terminated, [False] * 6 + [True])
    seen = [[1, 0.4, -1], [1, 0.4, -1], [0, 0.2, 0], [0, 0.4, 0], [0, 0.6, 0], [0, 0.8, 0], [0, 1.0, 0]]
    np.testing.assert_allclose(now.final_observation, seen, rtol=1e-6)


@pytest.mark.parametrize("good", [-1, 1])
def test_straight_to_the_good_end_returns_1_2_on_average(good):
    returns = []
    for cell in range(-2, 3):
        needed = 5 - good * cell
        actions = [LEFT, LEFT] + [RIGHT if good == 1 else LEFT] * needed + [LEFT] * (9 - needed)
        now = play(good, cell, jnp.asarray(actions))
        assert int(jnp.argmax(now.terminated)) == needed + 1
        returns.append(float(now.reward[: needed + 2].sum()))
    # 1.6 - 0.1 (n - 1) for n = 3 ... 7 steps.
    np.testing.assert_allclose(sorted(returns), [1.0, 1.1, 1.2, 1.3, 1.4], rtol=1e-5)
    np.testing.assert_allclose(np.mean(returns), 1.2, rtol=1e-5)


def test_an_episode_lasts_sixteen_steps_at_most():
    now = play(1, 0, jnp.asarray([LEFT, RIGHT] * 8))
    np.testing.assert_array_equal(np.flatnonzero(now.truncated), [15])
    np.testing.assert_allclose(now.reward.sum(), -1.4, rtol=1e-5)


def test_beginnings_are_even_and_shown():
    state, seen = jax.jit(jax.vmap(ENVIRONMENT.reset))(jax.random.split(jax.random.key(0), 1000))
    np.testing.assert_array_equal(seen[:, 2], state.world.good)
    np.testing.assert_array_equal(seen[:, 0], -seen[:, 2])
    counts = np.unique(np.round(seen[:, 1:], 1), axis=0, return_counts=True)[1]
    assert len(counts) == 10
    assert np.abs(counts - 100).max() < 50  # five standard deviations
