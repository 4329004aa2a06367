"""Unrolls against the same steps made one by one in Python: what is seen, remembered, earned, and worth afterwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.models import GRU, CategoricalHead, MLPCore, MLPTorso, gtrxl
from gempi_jax.numerics.advantages import gae
from gempi_jax.rl.agent import Agent, Seen, Trunk, one_step
from gempi_jax.rl.unroll import begin, unroll
from tests.rl.corridors import corridor

NUMBER, LENGTH = 8, 9


def trunk(core):
    return Trunk(MLPTorso((8,)), core, previous=True, num_actions=2)


CORES = {
    "mlp": lambda: MLPCore((8,)),
    "gru": lambda: GRU(8),
    "gtrxl": lambda: gtrxl(8, num_layers=1, mlp_width=8, memory_length=3, unroll_length=LENGTH),
}


@pytest.fixture(scope="module", params=sorted(CORES))
def made(request):
    """The agent, its parameters, two unrolls in a row, and where the second began."""
    core = CORES[request.param]
    agent, environment = Agent(trunk(core()), CategoricalHead(2), value_trunk=trunk(core())), corridor()
    first = begin(agent, environment, jax.random.key(0), NUMBER)
    params = agent.init(jax.random.key(1), one_step(first.seen))
    # Heads of a fresh agent prefer nothing and say 0: they are moved, so that what they read shows.
    params = jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params)

    @jax.jit
    def run(actors, key):
        return unroll(agent, environment, params, actors, key, LENGTH)

    middle, *_ = run(first, jax.random.key(2))
    after, steps, metrics = run(middle, jax.random.key(3))
    return agent, environment, params, middle, after, steps, metrics


def test_a_chunk_says_what_was_said_step_by_step(made):
    """The learner's first pass is the policy that acted: its ratio is 1."""
    agent, _, params, _, after, steps, _ = made
    read = jax.jit(agent.read)(params, steps.seen, steps.memories)
    np.testing.assert_allclose(read.policy.log_prob(steps.actions), steps.log_probs, atol=1e-5)
    np.testing.assert_allclose(read.values, steps.values, atol=1e-5)
    assert np.asarray(steps.seen.resets[:, 1:]).any()
    for one, other in zip(jax.tree.leaves(read.memories), jax.tree.leaves(after.memories), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_episodes_by_hand(made):
    """The corridor walked in Python by the same actions: observations, rewards, ends and resets."""
    *_, middle, after, steps, metrics = made
    actions = np.asarray(steps.actions)
    total, count = 0.0, 0
    for b in range(NUMBER):
        cell = int(middle.environments.world[b])
        elapsed, earned = int(middle.environments.elapsed[b]), float(middle.returns[b])
        for t in range(LENGTH):
            np.testing.assert_allclose(steps.seen.observations[b, t, 0], cell * 0.5)
            assert bool(steps.seen.resets[b, t]) == (elapsed == 0)
            if t:
                assert int(steps.seen.actions[b, t]) == actions[b, t - 1]
                assert float(steps.seen.rewards[b, t]) == float(steps.rewards[b, t - 1])
            cell, elapsed = cell + int(actions[b, t]), elapsed + 1
            earned += cell
            assert float(steps.rewards[b, t]) == cell
            terminated = cell >= 3
            truncated = elapsed >= 4 and not terminated
            assert (bool(steps.terminated[b, t]), bool(steps.truncated[b, t])) == (terminated, truncated)
            if terminated or truncated:
                total, count = total + earned, count + 1
                cell, elapsed, earned = 0, 0, 0.0
        assert int(after.lengths[b]) == elapsed
        assert float(after.returns[b]) == earned
    assert np.asarray(steps.terminated).any()
    assert np.asarray(steps.truncated).any()
    np.testing.assert_allclose(metrics["episode/return"].mean(), total / count, rtol=1e-6)
    assert float(metrics["episode/number"].mean()) == count


def test_what_would_have_followed(made):
    """V of the last observation, remembered as its episode had it, at time-outs and at the end of the unroll."""
    agent, _, params, _, after, steps, _ = made
    read = jax.jit(agent.read)
    ended = np.asarray(steps.terminated | steps.truncated)
    # The cell's number is what reaching it earned, so that the last observations can be told from the rewards.
    last = jnp.stack([0.5 * steps.rewards, jnp.ones_like(steps.rewards)], axis=-1)
    for t in range(LENGTH):
        goes_on = Seen(last[:, t], steps.actions[:, t], steps.rewards[:, t], jnp.zeros(NUMBER, bool))
        if t == LENGTH - 1:
            expected = read(params, one_step(goes_on), after.memories).values[:, 0]
            here = ~np.asarray(steps.terminated[:, t])
        else:
            # The steps up to t as they were, then the last observation as if the episode went on.
            seen = jax.tree.map(lambda x, y, t=t: x.at[:, t + 1].set(y), steps.seen, goes_on)
            expected = read(params, seen, steps.memories).values[:, t + 1]
            here = np.asarray(steps.truncated[:, t])
            on = ~ended[:, t]
            np.testing.assert_allclose(np.asarray(steps.next_values[:, t])[on], np.asarray(steps.values[:, t + 1])[on])
        found = np.asarray(steps.next_values[:, t])
        np.testing.assert_allclose(found[here], np.asarray(expected)[here], atol=1e-5)


def test_advantages_bootstrap_at_time_outs_and_not_at_ends(made):
    *_, steps, _ = made
    gamma = 0.9
    advantages, targets = gae(0.0)(*steps.steps(gamma))
    future = np.where(steps.terminated, 0.0, gamma * np.asarray(steps.next_values))
    np.testing.assert_allclose(advantages, steps.rewards + future - steps.values, atol=1e-5)
    np.testing.assert_allclose(targets, steps.rewards + future, atol=1e-5)
