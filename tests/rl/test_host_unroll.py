"""Unrolls of environments on the host: the bits of those in JAX, ends by hand, failures by name."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.models import GRU, Categorical, CategoricalHead, MLPCore, MLPTorso, gtrxl
from gempi_jax.rl import EnvironmentFailed, host_unroll
from gempi_jax.rl.agent import Agent, Trunk, one_step
from gempi_jax.rl.unroll import begin, unroll
from tests.rl.corridors import corridor, host_corridor

NUMBER, LENGTH = 6, 5
# Tiny arrays: compiling is all that these tests cost.
FAST = {"xla_backend_optimization_level": 0}
JIT = functools.partial(jax.jit, compiler_options=FAST)
CORES = {
    "gru": lambda: GRU(8),
    "gtrxl": lambda: gtrxl(8, num_layers=1, mlp_width=8, memory_length=3, unroll_length=LENGTH),
}


class Once:
    """Compiled, for one set of shapes and dtypes alone."""

    def __init__(self, function):
        self.function, self.traced = function, 0
        self.compiled = JIT(self.trace)

    def trace(self, *arguments):
        self.traced += 1
        assert self.traced == 1, arguments
        return self.function(*arguments)

    def __call__(self, *arguments):
        return self.compiled(*arguments)


def trunk(core):
    return Trunk(MLPTorso((8,)), core(), previous=True, num_actions=2)


@pytest.fixture(scope="module", params=sorted(CORES))
def unrolls(request):
    """Three unrolls in a row on either side, each (actors, unroll, metrics)."""
    agent = Agent(trunk(CORES[request.param]), CategoricalHead(2), value_trunk=trunk(CORES[request.param]))
    environment, pieces = corridor(), host_unroll.Pieces.of(agent, Once)
    ours = begin(agent, environment, jax.random.key(0), NUMBER)
    params = moved(JIT(agent.init)(jax.random.key(1), one_step(ours.seen)))
    scanned = JIT(lambda actors, key: unroll(agent, environment, params, actors, key, LENGTH))
    with host_corridor(NUMBER) as host:
        theirs, pairs = host_unroll.begin(agent, host), []
        chex.assert_trees_all_equal(theirs, ours._replace(environments=()))
        for number in range(3):
            key = jax.random.key(number)
            ours, *expected = scanned(ours, key)
            theirs, *made = host_unroll.unroll(pieces, host, params, theirs, key, LENGTH)
            pairs.append(((theirs, *made), (ours._replace(environments=()), *expected)))
    return pairs


def moved(params):
    """Heads of a fresh agent prefer nothing and say 0: moved, so that what they read shows."""
    return jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params)


def test_the_same_dynamics_give_the_same_unroll(unrolls):
    """To the bit in what environments and policy did; networks are compiled into other programs, which round apart."""
    ends = np.zeros(2, int)
    for made, expected in unrolls:
        chex.assert_trees_all_equal_dtypes(made, expected)
        chex.assert_trees_all_close(made, expected, rtol=0, atol=2e-6)
        for name in ("seen", "actions", "rewards", "terminated", "truncated"):
            chex.assert_trees_all_equal(getattr(made[1], name), getattr(expected[1], name))
        chex.assert_trees_all_equal(made[0].seen, expected[0].seen)
        chex.assert_trees_all_equal(made[2], expected[2])
        ends += [made[1].terminated.sum(), made[1].truncated.sum()]
    assert (ends > 0).all()


def test_the_same_operations_give_the_same_bits():
    """Nothing is compiled as a whole, so that both run the same operations one by one."""
    agent = Agent(Trunk(MLPTorso(()), MLPCore(())), CategoricalHead(2), FirstNumber())
    environment, key = corridor(2), jax.random.key(2)
    ours = JIT(lambda: begin(agent, environment, key, 2))()
    params = JIT(lambda: moved(agent.init(key, one_step(ours.seen))))()
    with jax.disable_jit(), host_corridor(2, max_episode_steps=2) as host:
        theirs = host_unroll.begin(agent, host)
        ours, *expected = unroll(agent, environment, params, ours, key, 3)
        made = host_unroll.unroll(host_unroll.Pieces.of(agent), host, params, theirs, key, 3)
    chex.assert_trees_all_equal(made, (ours._replace(environments=()), *expected))
    assert np.asarray(made[1].truncated).any()


class FirstNumber(nn.Module):
    """V is the first of the features, which here is half the cell's number."""

    @nn.compact
    def __call__(self, features):
        return self.param("one", nn.initializers.ones, (1, 1)) * features[..., 0]


class Always(nn.Module):
    """A policy that takes one action."""

    action: int

    @nn.compact
    def __call__(self, features):
        self.param("none", nn.initializers.zeros, (1,))
        logits = jnp.full((*features.shape[:-1], 2), -1e9).at[..., self.action].set(0.0)
        return Categorical.of_logits(logits)


@pytest.mark.parametrize(
    ("action", "limit", "rewards", "terminated", "truncated", "next_values", "returns", "lengths"),
    [
        # 0 -> 1 -> 2, cut off there, where V is 2 / 2; the new episode's 0 -> 1 -> 2 is cut off again; then 0 -> 1,
        # and the unroll ends, with V = 1 / 2 to come.
        (1, 2, [1, 2, 1, 2, 1], [0] * 5, [0, 1, 0, 1, 0], [0.5, 1, 0.5, 1, 0.5], 2 * 3.0, 2 * 2),
        # 0 -> 1 -> 2 -> 3 terminates: what follows it is the next episode's beginning, V = 0, for no estimator to read.
        (1, 9, [1, 2, 3, 1, 2], [0, 0, 1, 0, 0], [0] * 5, [0.5, 1, 0, 0.5, 1], 6.0, 3),
        # Where it stays, V = 0 at the time-out.
        (0, 3, [0] * 5, [0] * 5, [0, 0, 1, 0, 0], [0] * 5, 0.0, 3),
    ],
)
def test_ends_by_hand(action, limit, rewards, terminated, truncated, next_values, returns, lengths):
    plain = Trunk(MLPTorso(()), MLPCore(()))
    agent = Agent(plain, Always(action), FirstNumber())
    with host_corridor(2, max_episode_steps=limit) as host:
        actors = host_unroll.begin(agent, host)
        params = agent.init(jax.random.key(0), one_step(actors.seen))
        pieces = host_unroll.Pieces.of(agent)  # nothing is compiled: it runs in a debugger, too
        after, steps, metrics = host_unroll.unroll(pieces, host, params, actors, jax.random.key(1), 5)
    for instance in range(2):
        np.testing.assert_array_equal(steps.rewards[instance], rewards)
        np.testing.assert_array_equal(steps.terminated[instance], np.bool_(terminated))
        np.testing.assert_array_equal(steps.truncated[instance], np.bool_(truncated))
        np.testing.assert_allclose(steps.next_values[instance], next_values)
        resets = [True, *np.bool_(terminated[:-1]) | np.bool_(truncated[:-1])]
        np.testing.assert_array_equal(steps.seen.resets[instance], resets)
    episodes = sum(terminated) + sum(truncated)
    np.testing.assert_allclose(metrics["episode/return"], (2 * returns, 2 * episodes))
    np.testing.assert_allclose(metrics["episode/length"], (2 * lengths, 2 * episodes))
    began = max(t + 1 for t in range(5) if terminated[t] or truncated[t])
    np.testing.assert_array_equal(after.lengths, 5 - began)
    np.testing.assert_allclose(after.returns, sum(rewards[began:]))
    # Gamma 1: a reward and what follows, but for a termination.
    _, discounts, *_ = steps.steps(1.0)
    np.testing.assert_array_equal(discounts[0], 1 - np.asarray(terminated))


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        ("raises", r"corridor on the host: instance 1 died at step 7: ZeroDivisionError: by a wheel\. .*checkpoint"),
        ("reward", "instance 1 gave the reward nan at step 7; nothing was learnt from it"),
        ("observation", "instance 1 gave the observation nan at step 7"),
    ],
)
def test_a_failure_inside_an_unroll_is_named(failing, message):
    agent = Agent(Trunk(MLPTorso(()), MLPCore(())), CategoricalHead(2))
    with host_corridor(2, failing=failing, at=7) as host:
        actors = host_unroll.begin(agent, host)
        params = agent.init(jax.random.key(0), one_step(actors.seen))
        pieces = host_unroll.Pieces.of(agent)
        actors, *_ = host_unroll.unroll(pieces, host, params, actors, jax.random.key(1), 5)
        with pytest.raises(EnvironmentFailed, match=message) as failed:
            host_unroll.unroll(pieces, host, params, actors, jax.random.key(2), 5)
    assert (failed.value.index, failed.value.step) == (1, 7)
