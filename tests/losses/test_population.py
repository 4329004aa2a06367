"""Sub-populations: posteriors by hand, whole annotators, empty and impossible ones, and who is worst off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempi_jax import losses

# Two clusters, four pairs; annotator 0 has the first three, 1 nobody's, 2 the last.
LIKELIHOODS = jnp.array([[0.9, 0.8, 0.1, 0.3], [0.5, 0.5, 0.5, 0.6]])
ANNOTATORS = jnp.array([0, 0, 0, 2])


def test_by_hand():
    # 0.9 * 0.8 * 0.1 = 0.072 against 0.125; nothing known of annotator 1; 0.3 against 0.6.
    found = losses.responsibilities(jnp.log(LIKELIHOODS), ANNOTATORS)
    np.testing.assert_allclose(found, [[72 / 197, 125 / 197], [0.5, 0.5], [1 / 3, 2 / 3]], rtol=1e-5)
    # With shares 3 : 1 the first has 0.216 against 0.125, the last 0.9 against 0.6.
    prior = jnp.log(jnp.array([3.0, 1.0]))
    found = losses.responsibilities(jnp.log(LIKELIHOODS), ANNOTATORS, prior)
    np.testing.assert_allclose(found, [[216 / 341, 125 / 341], [0.75, 0.25], [0.6, 0.4]], rtol=1e-5)
    np.testing.assert_array_equal(
        losses.responsibilities(jnp.log(LIKELIHOODS), ANNOTATORS, prior, True), [[1, 0], [1, 0], [1, 0]]
    )


def test_an_annotator_is_not_its_pairs():
    # Two of the three pairs of annotator 0 favour the first cluster, all three together the second.
    votes = losses.datum_responsibilities(jnp.log(LIKELIHOODS), hard=True)
    np.testing.assert_array_equal(votes[:3, 0], [1, 1, 0])
    np.testing.assert_array_equal(losses.responsibilities(jnp.log(LIKELIHOODS), ANNOTATORS, hard=True)[0], [0, 1])
    np.testing.assert_allclose(
        losses.datum_responsibilities(jnp.log(LIKELIHOODS)),
        losses.responsibilities(jnp.log(LIKELIHOODS), jnp.arange(4)),
        rtol=1e-6,
    )


@given(st.integers(0, 1000), st.booleans())
def test_rows_sum_to_one_and_hard_is_their_argmax(seed, with_prior):
    rng = np.random.default_rng(seed)
    log_likelihoods = jax.nn.log_sigmoid(jnp.asarray(5 * rng.normal(size=(3, 40)), jnp.float32))
    annotators = jnp.asarray(rng.integers(0, 7, 40))
    prior = jnp.asarray(rng.normal(size=3), jnp.float32) if with_prior else None
    soft, hard = (
        losses.responsibilities(log_likelihoods, annotators, prior, hard, num_annotators=7) for hard in (False, True)
    )
    np.testing.assert_allclose(soft.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(hard, np.eye(3)[np.argmax(soft, axis=1)])
    # The oracle multiplies in float64.
    product = np.ones((7, 3)) if prior is None else np.tile(np.exp(np.asarray(prior, np.float64)), (7, 1))
    for pair, annotator in enumerate(np.asarray(annotators)):
        product[annotator] *= np.exp(np.asarray(log_likelihoods[:, pair], np.float64))
    np.testing.assert_allclose(soft, product / product.sum(axis=1, keepdims=True), rtol=1e-3, atol=1e-6)


def test_impossible_pairs_empty_annotators_and_padding_stay_finite():
    log_likelihoods = jnp.array([[-jnp.inf, -jnp.inf, -1.0, jnp.nan], [-2.0, -jnp.inf, -3000.0, 0.0]])
    where = jnp.array([True, True, True, False])
    annotators = jnp.array([0, 1, 2, 0])
    found = losses.responsibilities(log_likelihoods, annotators, num_annotators=4, where=where)
    np.testing.assert_allclose(found, [[0, 1], [0.5, 0.5], [1, 0], [0.5, 0.5]], atol=1e-7)
    # A cluster without a share wins nobody, not even whom it alone explains.
    dead = losses.responsibilities(log_likelihoods, annotators, jnp.array([0.0, -jnp.inf]), where=where)
    np.testing.assert_array_equal(dead, [[1, 0]] * 3)


def test_they_are_numbers_for_the_m_step():
    # The weights of both clusters' reward models; nothing flows into the posterior.
    gaps = jnp.array([[0.3, -0.2, 1.0, 0.5], [-1.0, 0.4, 0.1, 0.2]])

    def weights(gaps):
        return losses.responsibilities(losses.bradley_terry(gaps), ANNOTATORS)[ANNOTATORS].T

    assert not np.any(jax.jacobian(weights)(gaps))
    slope = jax.grad(lambda x: jnp.sum(losses.reward_model_loss(x, weights(x))))(gaps)
    np.testing.assert_allclose(slope, -weights(gaps) * jax.nn.sigmoid(-gaps), rtol=1e-5)


def test_em_recovers_two_populations_and_their_shares():
    # 60 annotators of 12 pairs, 3 in 4 prefer the larger feature, the others the smaller; rewards are u_k times it.
    rng = np.random.default_rng(0)
    annotators, taste = np.repeat(np.arange(60), 12), np.where(np.arange(60) < 45, 2.0, -2.0)
    gaps = np.abs(rng.normal(size=720))
    likely = 1 / (1 + np.exp(-taste[annotators] * gaps))
    features = jnp.asarray(np.where(rng.random(720) < likely, gaps, -gaps), jnp.float32)
    rewards, log_prior = jnp.array([0.1, -0.05]), jnp.log(jnp.array([0.5, 0.5]))

    def loss(rewards, weights):
        # Each pair's responsibilities sum to 1, so the weights sum to the number of pairs.
        return jnp.sum(losses.reward_model_loss(rewards[:, None] * features[None], weights)) / features.size

    @jax.jit
    def iteration(rewards, log_prior):
        likelihoods = losses.bradley_terry(rewards[:, None] * features[None])
        soft = losses.responsibilities(likelihoods, annotators, log_prior, num_annotators=60)
        weights = soft[annotators].T
        for _ in range(5):
            rewards = rewards - 2.0 * jax.grad(loss)(rewards, weights)
        return rewards, losses.update_log_prior(soft), soft

    annotators = jnp.asarray(annotators)
    for _ in range(40):
        rewards, log_prior, soft = iteration(rewards, log_prior)
    assert np.mean(np.argmax(soft, axis=1) == (taste < 0)) > 0.95
    np.testing.assert_allclose(jnp.exp(log_prior), [0.75, 0.25], atol=0.05)
    np.testing.assert_allclose(rewards, [2.0, -2.0], atol=0.4)


def test_learned_prior_is_the_mean_responsibility():
    rows = jnp.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    np.testing.assert_allclose(jnp.exp(losses.update_log_prior(rows)), [0.5, 0.5], rtol=1e-6)
    of_two = losses.update_log_prior(rows, where=jnp.array([True, True, False]))
    np.testing.assert_allclose(jnp.exp(of_two), [0.75, 0.25], rtol=1e-6)
    assert losses.update_log_prior(rows[:1])[1] == -jnp.inf


def test_utilities_and_the_worst_off_by_hand():
    # F = 2, 0.5, 0.5 and KL = 1: with beta 0.1 the utilities are 1.9, 0.4, 0.4.
    rewards = jnp.array([[1.0, 3.0, 9.0], [0.0, 1.0, 9.0], [1.0, 0.0, 9.0]])
    kl, where = jnp.array([0.5, 1.5, jnp.nan]), jnp.array([True, True, False])
    utilities = losses.population_utilities(rewards, kl, 0.1, where=where)
    np.testing.assert_allclose(utilities, [1.9, 0.4, 0.4], rtol=1e-6)
    assert losses.worst_population(utilities) == 1
    # exp(-(1.9 - 0.4) / 0.5) = 0.0498 beside 1 and 1; towards temperature 0 the tied share.
    weights = np.array([np.exp(-3.0), 1.0, 1.0])
    np.testing.assert_allclose(losses.max_min_weights(utilities, 0.5), weights / weights.sum(), rtol=1e-5)
    np.testing.assert_allclose(losses.max_min_weights(utilities, 1e-3), [0.0, 0.5, 0.5], atol=1e-4)
    assert not np.any(jax.jacobian(lambda u: losses.max_min_weights(u, 0.5))(utilities))


def test_improving_the_worst_off_improves_the_minimum():
    # (12): where one population is worst, the gradient of the minimum is the gradient of its utility alone.
    rewards = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.2]])
    log_ref = jax.nn.log_softmax(jnp.array([1.0, 0.0, 0.0]))

    def utilities(logits):
        log_policy = jax.nn.log_softmax(logits)
        exact = jnp.exp(log_policy) * 3  # The mean over the three outcomes becomes the expectation.
        return losses.population_utilities(exact[None] * rewards, exact * (log_policy - log_ref), 0.1)

    logits = jnp.array([0.5, 0.1, -0.2])
    worst = losses.worst_population(utilities(logits))
    slope = jax.grad(lambda x: utilities(x)[worst])(logits)
    np.testing.assert_allclose(slope, jax.grad(lambda x: jnp.min(utilities(x)))(logits), rtol=1e-6)
    assert jnp.min(utilities(logits + 0.1 * slope)) > jnp.min(utilities(logits))


def test_what_means_nothing_is_named():
    log_likelihoods = jnp.log(LIKELIHOODS)
    with pytest.raises(ValueError, match=r"numbers in 0 ... 1 \(num_annotators is 2\), not \[0, 0, 0, 2\]"):
        losses.responsibilities(log_likelihoods, ANNOTATORS, num_annotators=2)
    with pytest.raises(ValueError, match="numbers in 0"):
        losses.responsibilities(log_likelihoods, ANNOTATORS - 1)
    with pytest.raises(ValueError, match="inside jit the number of rows must be known: give num_annotators"):
        jax.jit(losses.responsibilities)(log_likelihoods, ANNOTATORS)
    with pytest.raises(ValueError, match="log_prior: some cluster must have a share"):
        losses.responsibilities(log_likelihoods, ANNOTATORS, jnp.full((2,), -jnp.inf))
    with pytest.raises(ValueError, match=r"max_min_weights: temperature is 0\.0"):
        losses.max_min_weights(jnp.zeros(2), 0.0)
    with pytest.raises(ValueError, match=r"population_utilities: beta is -0\.1"):
        losses.population_utilities(jnp.zeros((2, 3)), jnp.zeros(3), -0.1)
