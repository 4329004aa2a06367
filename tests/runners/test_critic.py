"""A critic of tokens in the language world, on a decoder of a few hundred parameters: GAE, prices, signal."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import methods
from gempi_jax.contracts import Counts
from gempi_jax.em import Level
from gempi_jax.llm.scoring import score
from gempi_jax.methods import Features
from gempi_jax.models import Decoder, DecoderConfig, ValueHead
from gempi_jax.runners.baselines import BASELINES
from gempi_jax.runners.batch import Batch
from gempi_jax.runners.networks import Policy
from gempi_jax.runners.scoring import Advantages, Reader, score_batch
from gempi_jax.runners.world import LanguageWorld
from gempi_jax.training.state import TrainState

MODEL = Decoder(DecoderConfig(vocab_size=11, hidden_size=8, intermediate_size=12, num_layers=1, num_heads=2))
HEAD = ValueHead()
# Two prompts with two completions each of 3, 1, 2 and 3 tokens.
MASK = jnp.asarray(np.arange(3) < np.array([[3, 1], [2, 3]])[..., None])
PROMPTS, LENGTHS = jnp.array([[1, 2, 3], [4, 5, 0]]), jnp.array([3, 2])
COMPLETIONS = jnp.where(MASK, jnp.arange(12).reshape(2, 2, 3) % 11, 0)
REWARDS = jnp.array([[1.0, 0.0], [0.5, -1.0]])


def make_batch(rewards=REWARDS):
    nothing = jnp.zeros(MASK.shape)
    return Batch(PROMPTS, LENGTHS, COMPLETIONS, MASK, nothing, nothing, rewards, jnp.arange(2))


@pytest.fixture(scope="module")
def state(random_params):
    """pi_theta = pi_t, and a pi_ref that differs from both."""
    policy = random_params(MODEL)
    value = HEAD.init(jax.random.key(1), jnp.zeros((1, 8)))["params"]
    value = jax.tree.map(lambda x: x + 0.3, value)
    ref = jax.tree.map(lambda x: x + 0.05 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), policy)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        zero,
        {"policy": policy, "value": {"head": value, "network": policy}},
        (),
        {},
        {},
        {"ref": ref},
        jax.random.key(0),
        zero,
        zero,
    )


def scored(method, state, rewards=REWARDS):
    reader = Reader(Policy(MODEL, HEAD))
    run = jax.jit(lambda s, b: score_batch(reader, Advantages(BASELINES["group_mean"]), method.needs, s, b))
    return run(state, make_batch(rewards))


def read_by(params):
    """log pi of each token, nats."""
    return jax.jit(lambda p: score(MODEL, p, PROMPTS, LENGTHS, COMPLETIONS, MASK).log_probs)(params)


def test_gae_over_ragged_tokens_with_their_prices_by_hand(state):
    gamma, lam, beta = 0.9, 0.8, 0.3
    method = methods.ppo(beta=beta, lam=lam, gamma=gamma)
    batch, samples, _ = scored(method, state)
    old = np.asarray(batch.old_log_probs, np.float64)
    values, mask = np.asarray(samples.values, np.float64), np.asarray(MASK)
    ref = np.asarray(read_by(state.snapshots["ref"]), np.float64)
    assert np.abs(old - ref)[mask].max() > 0.05
    for place in np.ndindex(2, 2):
        length, following, expected = mask[place].sum(), 0.0, np.zeros(3)
        for t in reversed(range(length)):
            # -beta k1 at each token, the task's reward at the last one, after which nothing follows.
            last = t == length - 1
            reward = -beta * (old[place][t] - ref[place][t]) + (float(REWARDS[place]) if last else 0.0)
            residual = reward + (0.0 if last else gamma * values[place][t + 1]) - values[place][t]
            following = expected[t] = residual + gamma * lam * following
        np.testing.assert_allclose(samples.advantages[place][:length], expected[:length], rtol=1e-4, atol=1e-5)
        targets = expected + values[place]
        np.testing.assert_allclose(samples.value_targets[place][:length], targets[:length], rtol=1e-4, atol=1e-5)


def test_signal_is_judged_by_rewards_less_their_price_over_the_batch(state):
    equal = jnp.full((2, 2), 0.1)
    # Without a price equal rewards tell nothing, whatever V errs by; with one their distances from pi_ref differ.
    for beta, rewards, tells in (
        (0.0, equal, False),
        (0.3, equal, True),
        (0.0, REWARDS.at[:].set(REWARDS[:, :1]), True),
    ):
        _, samples, _ = scored(methods.ppo(beta=beta), state, rewards)
        assert bool(np.any(samples.signal & MASK)) is tells
        target = methods.ppo(beta=beta).e_step({}, samples)
        assert bool(target.signal) is tells
        assert bool(np.any(target.weights)) is tells


def gradient(method, state):
    """d loss / d parameters on the first pass."""
    batch, samples, _ = scored(method, state)
    world = LanguageWorld(Policy(MODEL, HEAD), method.needs)

    @jax.jit
    def run(params, batch, samples):
        target = method.e_step({}, samples)
        counts = Counts(*world.count(batch))

        def loss(params):
            evaluation = world.evaluate(params, state.snapshots, batch, state.key, counts)
            fitted = method.m_step({}, target, evaluation)
            return fitted.loss, (fitted.metrics, evaluation.values)

        return jax.grad(loss, has_aux=True)(params)

    gradients, (metrics, values) = run(state.params, batch, samples)
    real = MASK if method.needs.level is Level.TOKEN else jnp.ones((2, 2), bool)
    np.testing.assert_allclose(values[real], samples.values[real], rtol=1e-5, atol=1e-6)
    return gradients, metrics


@pytest.mark.parametrize("make", [methods.ppo, methods.ppo_sequence])
def test_a_head_leaves_the_policy_alone_unless_it_is_to_move_it(make, state):
    heavy, light = ({"value_coefficient": c, "entropy_coefficient": 0.01, "value_clip": None} for c in (10.0, 0.1))
    first, metrics = gradient(make(**heavy), state)
    second, _ = gradient(make(**light), state)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-7), first["policy"], second["policy"])
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, 100 * y, rtol=1e-3, atol=1e-6), first["value"], second["value"]
    )
    moved, _ = gradient(make(**heavy, features=Features.SHARED), state)
    differences = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), moved["policy"], second["policy"])
    assert max(jax.tree.leaves(differences)) > 0.01
    # A network of its own that is still the policy's copy sees the same, and takes what the policy was spared.
    own, _ = gradient(make(**heavy, features=Features.OWN), state)
    chex.assert_trees_all_close(own["policy"], second["policy"], rtol=1e-4, atol=1e-7)
    chex.assert_trees_all_close(own["value"]["head"], first["value"]["head"], rtol=1e-3, atol=1e-6)
    alone = jax.tree.map(lambda x, y: x - y, moved["policy"], second["policy"])
    chex.assert_trees_all_close(own["value"]["network"], alone, rtol=1e-3, atol=1e-4)
    for name in ("clip_ratio/low", "clip_ratio/high", "approx_kl"):
        np.testing.assert_allclose(metrics[name].mean(), 0.0, atol=1e-7)
