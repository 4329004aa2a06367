"""gymnax's environments take the same course through us as under its own step, ends and beginnings included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.numerics import named_key
from gempi_jax.rl import Discrete
from tests.rl.environments import made

gymnax = pytest.importorskip("gymnax")

T = 60
# The limits make each of them end in both ways, where it can.
CASES = {
    "CartPole-v1": (12, {}),
    "Pendulum-v1": (9, {}),
    "Breakout-MinAtar": (11, {}),
    "MemoryChain-bsuite": (50, {"memory_length": 4}),
}


@pytest.mark.parametrize("name", CASES)
def test_step_by_step_it_is_gymnax(name):
    limit, options = CASES[name]
    ours = made(name, max_episode_steps=limit)
    theirs, parameters = gymnax.make(name)
    parameters = parameters.replace(max_steps_in_episode=limit, **options)
    keys = jax.random.split(jax.random.key(0), T)
    if isinstance(ours.actions, Discrete):
        actions = jax.random.randint(jax.random.key(1), (T,), 0, ours.actions.n)
    else:
        actions = jax.random.uniform(jax.random.key(1), (T, *ours.actions.shape), minval=-3.0, maxval=3.0)
    state, observation = ours.reset(jax.random.key(2))
    expected, their_state = theirs.reset(jax.random.key(2), parameters)
    np.testing.assert_array_equal(observation, expected)

    _, now = jax.jit(lambda s: jax.lax.scan(lambda s, x: ours.step(x[0], s, x[1]), s, (keys, actions)))(state)
    ends = np.zeros(2)
    for t in range(T):
        expected, their_state, *rest, info = theirs.step(keys[t], their_state, actions[t], parameters)
        reward, terminated, truncated = rest
        if terminated or truncated:  # the next episode begins from a key of our naming, not of its splitting
            expected, their_state = theirs.reset(named_key(keys[t], "reset"), parameters)
        where = f"{name}, step {t}"
        np.testing.assert_allclose(now.observation[t], expected, rtol=1e-5, atol=1e-6, err_msg=where)
        np.testing.assert_allclose(now.final_observation[t], info["final_observation"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(now.reward[t], reward, rtol=1e-5, err_msg=where)
        assert bool(now.terminated[t]) == bool(terminated), where
        assert bool(now.truncated[t]) == (bool(truncated) and not bool(terminated)), where
        ends += [bool(terminated), bool(truncated)]
    assert ends.any()


def test_memory_chain_answered_right_returns_one():
    environment = made("MemoryChain-bsuite")  # memory_length 4
    state, seen = environment.reset(jax.random.key(3))
    answer = jnp.int32(seen[2] > 0)  # the context is -1 or 1 at the beginning, and the answer 0 or 1
    rewards = []
    step = jax.jit(environment.step)
    for t in range(5):
        state, now = step(jax.random.key(t), state, answer)
        rewards.append(float(now.reward))
    assert rewards == [0, 0, 0, 0, 1]
    assert bool(now.terminated)


def test_pendulum_is_never_terminated_and_truncated_after_200():
    environment = made("Pendulum-v1", max_episode_steps=None)
    assert environment.max_episode_steps == 200
    np.testing.assert_array_equal(environment.actions.bounds(), [[-2.0], [2.0]])
