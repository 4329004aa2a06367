"""Preference methods and group fits against their own papers' formulas, and against each other."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import losses, methods, numerics
from gempi_jax.contracts import Counts
from gempi_jax.em import Reduction
from gempi_jax.methods import Contrast, Reading
from tests.methods import worlds

DATA = worlds.make_data()
PAIRS = jax.tree.map(lambda x: x[:, :2], DATA)
# The first of two samples is better, but for a tie in the first group.
REWARDS = np.tile([1.0, 0.0], (worlds.GROUPS, 1))
REWARDS[0] = 0.5


def rho_of(log_probs, data=PAIRS):
    """Log-ratios to pi_ref, summed over tokens."""
    ref = worlds.token_log_probs(data.ref_logits, data)
    return jnp.where(data.mask, log_probs - ref, 0.0).sum(-1)


def log_probs_of(logits, data=PAIRS):
    return worlds.token_log_probs(logits, data)


def samples_of(method, rewards=REWARDS, data=PAIRS):
    made = worlds.make_samples(method, DATA, np.resize(rewards, (worlds.GROUPS, worlds.SAMPLES)))
    if data is DATA:
        return made
    # Of pairs there are two.
    cut = jax.tree.map(lambda x: x[..., :2], made)
    rewards = jnp.asarray(rewards, jnp.float32)
    return cut._replace(rewards=rewards, advantages=rewards, signal=None)


def loss_of(method, log_probs, rewards=REWARDS, data=PAIRS, *, state=None):
    """The method's loss of log-probs, through its E-step."""
    own = method.init_state(jax.random.key(0)) if state is None else state
    target = method.e_step(method.init(), samples_of(method, rewards, data), own)
    counts = Counts(jnp.float32(1), jnp.float32(1), 1.0)
    evaluation = worlds.Evaluation(log_probs, data.mask, {}, counts)
    return method.m_step({}, target, evaluation)


def value_and_slope(method, log_probs, rewards=REWARDS, data=PAIRS):
    return jax.value_and_grad(lambda x: loss_of(method, x, rewards, data).loss)(log_probs)


@pytest.fixture(scope="module")
def log_probs():
    return log_probs_of(PAIRS.old_logits)


def test_dpos_gradient_is_the_papers(log_probs):
    # -beta sigma(r_l - r_w) (grad log pi(y_w) - grad log pi(y_l)), a mean over the seven pairs; the tie is none.
    beta = 0.3
    _, slope = value_and_slope(methods.dpo(beta), log_probs)
    rewards = beta * rho_of(log_probs)
    pull = beta * jax.nn.sigmoid(rewards[:, 1] - rewards[:, 0]) / 7
    expected = np.stack([-pull, pull], -1)[..., None] * np.asarray(PAIRS.mask)
    expected[0] = 0
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-7)


def test_online_the_best_and_the_worst_are_the_pair():
    rewards = np.random.default_rng(3).permuted(np.tile(np.arange(4.0), (worlds.GROUPS, 1)), axis=1)
    rewards[0] = 1.0
    method, log_probs = methods.dpo(), log_probs_of(DATA.old_logits, DATA)
    target = method.e_step({}, samples_of(method, rewards, DATA))
    expected = np.where(rewards == 3, 1, 0) - np.where(rewards == 0, 1, 0)
    expected[0] = 0
    np.testing.assert_allclose(target.weights, expected / 7, rtol=1e-6)
    np.testing.assert_allclose(target.metrics["estep/flat_groups"].mean(), 1 / 8)
    rho = rho_of(log_probs, DATA)
    margins = (rho * expected).sum(-1)[1:]
    loss = loss_of(method, log_probs, rewards, DATA)
    np.testing.assert_allclose(loss.loss, np.mean(np.logaddexp(0, -0.1 * margins)), rtol=1e-5)
    np.testing.assert_allclose(loss.metrics["rewards/accuracies"].mean(), np.mean(margins > 0))


SAME = {
    # name: (method, another that is the same on pairs)
    "rdpo without noise is dpo": (methods.rdpo(0.2, 0.0), methods.dpo(0.2)),
    "cdpo without noise is dpo": (methods.cdpo(0.2, 0.0), methods.dpo(0.2)),
    # softmax([1, 0] / alpha) is a hard label at 1/50, and (3/4, 1/4) at 1 / log 3.
    "info_nca of a hard label is dpo": (methods.info_nca(0.2, 0.02), methods.dpo(0.2)),
    "info_nca of a soft label is cdpo": (methods.info_nca(0.2, 1 / math.log(3)), methods.cdpo(0.2, 0.25)),
    # log((1 - e) / e) is the difference of r / beta_r.
    "exo of a pair is exo of rewards": (methods.exo(0.2, 0.1), methods.exo(0.2, beta_r=1 / math.log(9))),
    "beta_dpo that moves nothing is dpo": (methods.beta_dpo(0.2, 0.0, 1.0), methods.dpo(0.2)),
}


@pytest.mark.parametrize("name", SAME)
def test_one_method_is_another(name, log_probs):
    (value, slope), (expected, other) = (value_and_slope(method, log_probs) for method in SAME[name])
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(slope, other, rtol=2e-4, atol=1e-6)


def test_rdpo_is_unbiased_for_flipped_labels_and_cdpo_is_not(log_probs):
    # E over labels that are flipped with probability e: (1 - e) L(r) + e L(1 - r).
    noise, flipped = 0.2, 1.0 - REWARDS

    def expected(method):
        return (1 - noise) * loss_of(method, log_probs).loss + noise * loss_of(method, log_probs, flipped).loss

    clean = loss_of(methods.dpo(0.3), log_probs).loss
    np.testing.assert_allclose(expected(methods.rdpo(0.3, noise)), clean, rtol=1e-5)
    assert abs(expected(methods.cdpo(0.3, noise)) - clean) > 1e-3


def test_ipo_wants_a_margin_of_half_over_beta(log_probs):
    beta, rho = 0.25, rho_of(log_probs)
    margins = (rho[:, 0] - rho[:, 1])[1:]
    expected = np.mean((np.asarray(margins) - 2.0) ** 2)
    np.testing.assert_allclose(loss_of(methods.ipo(beta), log_probs).loss, expected, rtol=1e-5)
    means = rho / PAIRS.mask.sum(-1)
    expected = np.mean((np.asarray(means[:, 0] - means[:, 1])[1:] - 2.0) ** 2)
    method = methods.ipo(beta, reduction=Reduction.MEAN)
    np.testing.assert_allclose(loss_of(method, log_probs).loss, expected, rtol=1e-5)


def scored(scores, base):
    """Log-probs of one term each with which the samples have these scores over their base."""
    return jnp.where(jnp.arange(worlds.LENGTH) == 0, (scores + base)[..., None], 0.0)


GROUPS = np.random.default_rng(5).normal(size=(worlds.GROUPS, worlds.SAMPLES))


def log_softmax(x):
    return np.asarray(jax.nn.log_softmax(jnp.asarray(x, jnp.float32)))


def ref_and_old():
    return [
        jnp.where(DATA.mask, worlds.token_log_probs(logits, DATA), 0.0).sum(-1)
        for logits in (DATA.ref_logits, DATA.old_logits)
    ]


def test_tpos_gradient_is_p_minus_q_and_zero_at_the_match():
    _, old = ref_and_old()
    # u: z-score by the population's deviation; q ~ p_t exp(u).
    u = (GROUPS - GROUPS.mean(-1, keepdims=True)) / GROUPS.std(-1, keepdims=True)
    q = np.exp(log_softmax(np.asarray(old) + u))
    scores = np.random.default_rng(6).normal(size=GROUPS.shape)
    _, slope = value_and_slope(methods.tpo(), scored(scores, 0.0), GROUPS, DATA)
    expected = (np.exp(log_softmax(scores)) - q) / worlds.GROUPS
    np.testing.assert_allclose(slope[..., 0], expected, atol=1e-6)
    _, slope = value_and_slope(methods.tpo(), scored(np.log(q) - 5.0, 0.0), GROUPS, DATA)
    np.testing.assert_allclose(slope[..., 0], 0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "shift"),
    [
        # softmax fits: any common shift; NCA: beta rho = log(K q).
        (methods.info_nca(0.5, 0.7), 3.0),
        (methods.exo(0.5, beta_r=0.7), -1.0),
        (methods.info_nca(0.5, 0.7, contrast=Contrast.NCA), math.log(worlds.SAMPLES)),
    ],
)
def test_forward_reverse_and_nca_have_one_optimum(method, shift):
    ref, _ = ref_and_old()
    at_optimum = scored((log_softmax(GROUPS / 0.7) + shift) / 0.5, ref)
    _, slope = value_and_slope(method, at_optimum, GROUPS, DATA)
    # The first token carries the whole of a sample's log-prob, the others none.
    np.testing.assert_allclose(slope[..., 0], 0.0, atol=2e-6)
    _, slope = value_and_slope(method, scored(GROUPS, ref), GROUPS, DATA)
    assert np.abs(slope[..., 0]).max() > 1e-3


@pytest.mark.parametrize("reading", Reading)
def test_beta_dpos_beta_and_pairs_are_the_e_steps(reading, log_probs):

    method = methods.beta_dpo(0.4, 0.6, 0.8, reading=reading)
    state = method.init_state(jax.random.key(7))
    samples = samples_of(method)
    function = {Reading.PUBLISHED: losses.published_beta, Reading.RELEASED: losses.released_beta}[reading]
    ref, old = samples.anchor_log_probs
    step = jax.jit(method.e_step)
    for scale in (1.0, 2.0):
        # Margins twice as large in the second batch: beta follows.
        rho = scale * (old - ref)
        samples = samples._replace(anchor_log_probs=jnp.stack([ref, ref + rho]))
        draw, key = numerics.named_key(state.key, "pairs"), numerics.named_key(state.key, "next")
        found = function(*rho.T, 0.4, state.moments, key=draw, where=jnp.arange(8) > 0)
        target = step({}, samples, state)
        # Five of seven pairs: floor(0.8 * 7).
        assert int(found.kept.sum()) == 5
        np.testing.assert_allclose(target.weights[:, 0], np.where(found.kept, 0.2, 0), rtol=1e-6)
        np.testing.assert_allclose(target.examples["betas"], np.full(8, found.beta), rtol=1e-6)
        state = target.state
        assert bool(state.key == key)
        np.testing.assert_allclose(state.moments, found.moments, rtol=1e-5)
    assert float(found.beta) != pytest.approx(0.4)
    # A batch of ties moves no moment.
    tied = step({}, samples_of(method, np.full_like(REWARDS, 0.5)), state)
    assert not bool(tied.signal)
    np.testing.assert_array_equal(tied.state.moments, state.moments)


def test_a_fit_without_pairs_has_loss_and_gradient_zero(log_probs):
    for name in ("dpo", "ipo", "rdpo", "cdpo", "beta_dpo", "tpo", "info_nca", "exo"):
        method = methods.METHODS[name]()
        value, slope = value_and_slope(method, log_probs, np.full_like(REWARDS, 0.5))
        assert value == 0
        assert not np.any(slope)
        assert method.needs.preferences


BUILDS = {
    "beta, in units of reward per nat, must be positive": functools.partial(methods.dpo, -0.1),
    r"label_noise, the share of flipped labels, must lie in \[0, 1/2\)": functools.partial(methods.cdpo, 0.1, 0.5),
    r"infinite where q = 0. Give epsilon > 0": functools.partial(methods.exo, 0.1, 0.0),
    r"PairLabels.noise is 0.7": functools.partial(methods.exo, 0.1, 0.7),
    r"Boltzmann.temperature": functools.partial(methods.tpo, 0.0),
    r"kept_fraction is 0.0: the share": functools.partial(methods.beta_dpo, kept_fraction=0.0),
}


@pytest.mark.parametrize("message", BUILDS)
def test_methods_that_mean_nothing_cannot_be_built(message):
    with pytest.raises(ValueError, match=message):
        BUILDS[message]()
