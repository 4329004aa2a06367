"""The T-maze by hand: what is seen, what a step costs, and what knowing or guessing the side returns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.rl import make
from gempi_jax.rl.env import Episode
from gempi_jax.rl.envs.t_maze import BACK, FORWARD, LEFT, RIGHT, TMazeState


def play(environment, side, actions):
    """A run of actions from the start, by field of its time steps."""

    def step(state, action):
        return environment.step(jax.random.key(1), state, action)

    state = Episode(TMazeState(jnp.int32(side), jnp.int32(0)), jnp.int32(0))
    return jax.jit(lambda actions: jax.lax.scan(step, state, actions)[1])(jnp.asarray(actions))


def test_the_rules_by_hand():
    # Two steps of corridor: walls on the sides, back to the start, where the sign is, and on to the junction.
    actions = [LEFT, FORWARD, BACK, BACK, FORWARD, FORWARD, FORWARD, BACK, FORWARD, RIGHT]
    now = play(make("TMaze", length=2, max_episode_steps=50), 1, actions)
    lost = -1 / 2
    np.testing.assert_allclose(now.reward, [lost, 0, lost, lost, 0, 0, lost, lost, 0, 1])
    np.testing.assert_array_equal(now.terminated, [False] * 9 + [True])
    start, corridor, junction = [1, 1, 0], [0, 0, 0], [0, 0, 1]
    seen = [start, corridor, start, start, corridor, junction, junction, corridor, junction, junction]
    np.testing.assert_array_equal(now.final_observation, seen)


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize(("turn", "is_right_of"), [(LEFT, -1), (RIGHT, 1)])
def test_straight_on_and_the_right_way_returns_one(side, turn, is_right_of):
    now = play(make("TMaze", length=64), side, [FORWARD] * 64 + [turn])
    np.testing.assert_allclose(now.reward.sum(), 1.0 if side == is_right_of else -1.0)
    assert bool(now.terminated[-1])
    assert not now.terminated[:-1].any()
    assert not now.final_observation[:-2].any(axis=1)[1:].any(), "the corridor tells where the agent is"


def test_time_is_twice_what_is_needed():
    now = play(make("TMaze", length=4), 1, [BACK] * 10)
    np.testing.assert_array_equal(np.flatnonzero(now.truncated), [9])
    np.testing.assert_allclose(now.reward.sum(), -10 / 4)


def test_both_sides_come_up():
    environment = make("TMaze")
    _, seen = jax.jit(jax.vmap(environment.reset))(jax.random.split(jax.random.key(0), 1000))
    assert set(np.unique(seen[:, 0]).tolist()) == {-1.0, 1.0}
    assert abs(float(seen[:, 0].mean())) < 0.16  # five standard deviations


def test_a_corridor_has_a_length():
    with pytest.raises(ValueError, match="t_maze: length is 0"):
        make("TMaze", length=0)
