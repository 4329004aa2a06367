"""MiniGrid's memory worlds: xminigrid's own course, and the score of one who looks, remembers and walks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.rl import make

xminigrid = pytest.importorskip("xminigrid")

FORWARD, CLOCKWISE, COUNTERCLOCKWISE = range(3)
T = 40


def test_step_by_step_it_is_xminigrid():
    ours = make("MiniGrid-MemoryS8")
    theirs, parameters = xminigrid.make("MiniGrid-MemoryS8")
    keys, actions = jax.random.split(jax.random.key(0), T), jax.random.randint(jax.random.key(1), (T,), 0, 6)
    state, _ = ours.reset(jax.random.key(2))
    their = theirs.reset(parameters, jax.random.key(2))
    _, now = jax.jit(lambda s: jax.lax.scan(lambda s, x: ours.step(x[0], s, x[1]), s, (keys, actions)))(state)
    step = jax.jit(lambda their, action: theirs.step(parameters, their, action))
    for t in range(T):
        their = step(their, actions[t])
        seen = np.asarray(now.final_observation[t])
        np.testing.assert_array_equal(seen[..., :13].argmax(-1), their.observation[..., 0])
        np.testing.assert_array_equal(seen[..., 13:].argmax(-1), their.observation[..., 1])
        np.testing.assert_array_equal(seen.sum(-1), 2.0)
        np.testing.assert_allclose(now.reward[t], their.reward, rtol=1e-6)
        if bool(now.terminated[t]):
            break
    assert bool(now.terminated[t]) == (float(their.discount) == 0)


@pytest.mark.parametrize(("name", "width"), [("MiniGrid-MemoryS8", 8), ("MiniGrid-MemoryS9", 9)])
def test_who_knows_the_object_scores(name, width):
    environment = make(name, num_actions=3)
    assert environment.max_episode_steps == 5 * width**2
    unroll = jax.jit(lambda s, a: jax.lax.scan(lambda s, a: environment.step(jax.random.key(0), s, a), s, a)[1])
    for seed in range(4):
        state, _ = environment.reset(jax.random.key(seed))
        up = int(state.world.carry.success_pos[0]) == 2
        turn = COUNTERCLOCKWISE if up else CLOCKWISE
        walk = int(state.world.carry.success_pos[1] - state.world.agent.position[1])
        now = unroll(state, jnp.asarray([FORWARD] * walk + [turn] + [FORWARD] * (width - walk)))
        assert int(jnp.argmax(now.terminated)) == walk + 1
        np.testing.assert_allclose(now.reward[walk + 1], 1 - 0.9 * (walk + 2) / (5 * width**2), rtol=1e-6)


def test_what_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"MiniGrid-MemoryS8: num_actions is 7 .* at most 6 actions"):
        make("MiniGrid-MemoryS8", num_actions=7)
    with pytest.raises(ValueError, match=r"view_size 4; give .* an odd view"):
        make("MiniGrid-MemoryS8", view_size=4)
    with pytest.raises(ValueError, match="no environment 'MiniGrid-MemoryS10'; the nearest are 'MiniGrid-MemoryS1"):
        make("MiniGrid-MemoryS10")
