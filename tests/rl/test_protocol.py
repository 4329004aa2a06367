"""What holds of every environment: one compilation, strong types, episodes one after another, keys that decide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.rl import Continuous
from tests.rl.environments import CASES, made

B, T, LIMIT = 3, 14, 5


def act(environment, key):
    """A random action."""
    if isinstance(environment.actions, Continuous):
        return jax.random.uniform(key, environment.actions.shape, minval=-3.0, maxval=3.0)
    return jax.random.randint(key, (), 0, environment.actions.n)


def roll(environment, key, state):
    """T random steps of B instances: (state, action, time step) by time, and the state after them."""

    def step(state, key):
        keys = jax.random.split(key, (2, B))
        actions = jax.vmap(lambda key: act(environment, key))(keys[0])
        after, now = jax.vmap(environment.step)(keys[1], state, actions)
        return after, (state, actions, now)

    return jax.lax.scan(step, state, jax.random.split(key, T))


@pytest.fixture(scope="module", params=CASES)
def played(request):
    """An environment whose episodes are cut after five steps, and a compiled unroll of it, called twice."""
    environment = made(request.param, max_episode_steps=LIMIT)
    compiled = []

    @jax.jit
    def unroll(key, state):
        compiled.append(1)
        return roll(environment, key, state)

    first = jax.jit(jax.vmap(environment.reset))(jax.random.split(jax.random.key(0), B))
    state, steps = unroll(jax.random.key(1), first[0])
    unroll(jax.random.key(2), state)
    return environment, first, steps, unroll, compiled


def test_a_second_call_compiles_nothing(played):
    assert len(played[-1]) == 1


def test_everything_has_a_type_of_its_own(played):
    environment, (state, observation), (states, _, now), *_ = played
    assert [leaf for leaf in jax.tree.leaves((state, observation, states, now)) if leaf.weak_type] == []
    assert now.observation.dtype == now.final_observation.dtype == now.reward.dtype == observation.dtype == jnp.float32
    assert now.terminated.dtype == now.truncated.dtype == bool
    assert now.observation.shape == now.final_observation.shape == (T, B, *environment.observation_shape)
    assert now.reward.shape == now.terminated.shape == (T, B)


def test_an_episode_is_terminated_or_truncated_at_its_limit(played):
    environment, _, (states, _, now), *_ = played
    assert environment.max_episode_steps == LIMIT
    assert not (now.terminated & now.truncated).any()
    np.testing.assert_array_equal(now.truncated, (states.elapsed == LIMIT - 1) & ~now.terminated)


def test_after_its_end_another_episode_begins(played):
    _, _, (states, _, now), *_ = played
    ended = np.asarray(now.terminated | now.truncated)
    assert ended.any(), "the case says nothing"
    np.testing.assert_array_equal(states.elapsed[1:], np.where(ended[:-1], 0, states.elapsed[:-1] + 1))
    # Within an episode the policy sees what the action led to.
    same = ended.reshape(T, B, *[1] * (now.observation.ndim - 2)) | (now.observation == now.final_observation)
    assert np.asarray(same).all()


def test_the_key_decides(played):
    _, (state, _), steps, unroll, _ = played
    again = unroll(jax.random.key(1), state)[1]
    jax.tree.map(np.testing.assert_array_equal, steps, again)
    other = unroll(jax.random.key(3), state)[1]
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(steps), jax.tree.leaves(other), strict=True))


def test_one_instance_is_one_of_many(played):
    environment, (state, _), (_, actions, now), *_ = played
    keys = jax.random.split(jax.random.split(jax.random.key(1), T)[0], (2, B))
    alone = jax.jit(environment.step)(keys[1][1], jax.tree.map(lambda x: x[1], state), actions[0, 1])[1]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y[0, 1], rtol=1e-6), alone, now)


def test_a_state_has_a_picture(played):
    environment, (state, _), *_ = played
    picture = np.asarray(environment.render(jax.tree.map(lambda x: x[0], state)))
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert picture.std() > 0
