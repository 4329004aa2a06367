"""Fits over a group: values and gradients by hand, optima, pairs as DPO and cDPO, samples that are not there."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempi_jax import losses

SEEDS = st.integers(0, 1000)
FITS = {"forward": losses.forward_softmax, "reverse": losses.reverse_softmax, "nca": losses.nca_loss}
# p = (1/2, 1/4, 1/4) and q = (1/4, 1/2, 1/4).
SCORES = jnp.log(jnp.array([[2.0, 1.0, 1.0]]))
TARGET = jnp.log(jnp.array([[0.25, 0.5, 0.25]]))


def slope(fit, scores, target, **options):
    """Gradient of the sum of the groups' terms in the scores."""
    return jax.grad(lambda s: jnp.sum(fit(s, target, **options)))(scores)


def groups(seed, groups=3, samples=4):
    """Scores and the log of a target."""
    scores, target = np.random.default_rng(seed).normal(size=(2, groups, samples)).astype(np.float32)
    return jnp.asarray(2 * scores), jax.nn.log_softmax(jnp.asarray(2 * target))


def test_forward_by_hand():
    # -(1/4 log 1/2 + 1/2 log 1/4 + 1/4 log 1/4) = 7/4 log 2; the gradient is p - q.
    np.testing.assert_allclose(losses.forward_softmax(SCORES, TARGET), [1.75 * np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(slope(losses.forward_softmax, SCORES, TARGET), [[0.25, -0.25, 0.0]], atol=1e-7)


def test_reverse_by_hand():
    # log p/q = log 2, -log 2, 0: KL = (1/2 - 1/4) log 2; the gradient p (log p/q - KL) = (3/8, -5/16, -1/16) log 2.
    np.testing.assert_allclose(losses.reverse_softmax(SCORES, TARGET), [0.25 * np.log(2)], rtol=1e-5)
    expected = np.log(2) * np.array([[3 / 8, -5 / 16, -1 / 16]])
    np.testing.assert_allclose(slope(losses.reverse_softmax, SCORES, TARGET), expected, rtol=1e-5)


def test_nca_by_hand():
    # sigma(log 2) = 2/3, sigma(0) = 1/2: -(1/4 log 2/3 + 3/4 log 1/2) - (log 1/3 + 2 log 1/2) / 3.
    value = -(0.25 * np.log(2 / 3) + 0.75 * np.log(0.5)) - (np.log(1 / 3) + 2 * np.log(0.5)) / 3
    np.testing.assert_allclose(losses.nca_loss(SCORES, TARGET), [value], rtol=1e-6)
    # -q (1 - sigma) + sigma / 3: -1/4 1/3 + 2/9, -1/2 1/2 + 1/6, -1/4 1/2 + 1/6.
    expected = [[5 / 36, -1 / 12, 1 / 24]]
    np.testing.assert_allclose(slope(losses.nca_loss, SCORES, TARGET), expected, rtol=1e-5)


@given(SEEDS)
def test_optima(seed):
    # Softmax fits: p = q, whatever the scores' offset; there KL is 0 and cross-entropy the entropy of q.
    target = groups(seed)[1]
    for name, scores in (("forward", target + 3.0), ("reverse", target - 2.0), ("nca", target + np.log(4.0))):
        np.testing.assert_allclose(slope(FITS[name], scores, target), np.zeros((3, 4)), atol=1e-6)
    entropy = -jnp.sum(jnp.exp(target) * target, axis=-1)
    np.testing.assert_allclose(losses.forward_softmax(target + 3.0, target), entropy, rtol=1e-5)
    np.testing.assert_allclose(losses.reverse_softmax(target - 2.0, target), np.zeros(3), atol=1e-6)


@given(SEEDS)
def test_forward_less_the_targets_entropy_is_the_kl_that_reverse_has_with_its_arguments_swapped(seed):
    scores, target = groups(seed)
    policy = jax.nn.log_softmax(scores)
    entropy = -jnp.sum(jnp.exp(target) * target, axis=-1)
    found = losses.forward_softmax(scores, target) - entropy
    np.testing.assert_allclose(found, losses.reverse_softmax(target, policy), rtol=1e-4, atol=1e-5)


@given(SEEDS, st.sampled_from([0.0, 0.001, 0.2]))
def test_pairs_are_dpo_and_cdpo(seed, noise):
    rho, beta = groups(seed, 5, 2)[0], 0.3
    target = jnp.broadcast_to(jnp.log(jnp.array([1 - noise, noise])), (5, 2))
    expected = losses.conservative_dpo_loss(rho[:, 0], rho[:, 1], beta, noise)
    np.testing.assert_allclose(losses.forward_softmax(beta * rho, target), expected, rtol=1e-5)
    # NCA's pair: -log sigma(r_w) - (log sigma(-r_w) + log sigma(-r_l)) / 2 at a hard label.
    if noise == 0:
        won, lost = (beta * np.asarray(rho, np.float64)).T
        hard = np.logaddexp(0, -won) + (np.logaddexp(0, won) + np.logaddexp(0, lost)) / 2
        np.testing.assert_allclose(losses.nca_loss(beta * rho, target), hard, rtol=1e-5)


@pytest.mark.parametrize("name", FITS)
def test_samples_that_are_not_there(name):
    # Three groups in four places: two samples, all, none.
    where = jnp.array([[True, True, False, False], [True] * 4, [False] * 4])
    scores, target = groups(0)
    junk = jnp.array([jnp.nan, jnp.inf, -jnp.inf, jnp.nan])
    padded = [jnp.where(where, x, junk) for x in (scores, target)]
    two = FITS[name](scores[:1, :2], target[:1, :2])
    four = FITS[name](scores[1:2], target[1:2])
    np.testing.assert_allclose(FITS[name](*padded, where=where), [two[0], four[0], 0.0], rtol=1e-5)
    found = slope(FITS[name], *padded, where=where)
    expected = np.zeros((3, 4))
    expected[0, :2] = slope(FITS[name], scores[:1, :2], target[:1, :2])[0]
    expected[1] = slope(FITS[name], scores[1:2], target[1:2])[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", FITS)
def test_extreme_scores_and_targets_stay_finite_and_targets_are_numbers(name):
    scores, target = jnp.array([[1e4, 0.0, -1e4]]), jax.nn.log_softmax(jnp.array([[-1e3, 1e3, 0.0]]))
    slopes = jax.grad(lambda *x: jnp.sum(FITS[name](*x)), argnums=(0, 1))(scores, target)
    assert np.all(np.isfinite(FITS[name](scores, target)))
    assert np.all(np.isfinite(slopes[0]))
    assert not np.any(slopes[1])


def test_one_sample_says_nothing_to_a_softmax_and_no_target_is_no_loss():
    one = jnp.array([[0.7]])
    for fit in (losses.forward_softmax, losses.reverse_softmax):
        np.testing.assert_array_equal(slope(fit, one, jnp.zeros((1, 1))), 0.0)
    nothing = jnp.full((1, 3), -jnp.inf)
    np.testing.assert_array_equal(losses.forward_softmax(SCORES, nothing), 0.0)
    np.testing.assert_array_equal(slope(losses.forward_softmax, SCORES, nothing), np.zeros((1, 3)))
    assert losses.reverse_softmax(SCORES, TARGET.at[0, 0].set(-jnp.inf))[0] == jnp.inf


@pytest.mark.parametrize("name", FITS)
def test_shapes_that_disagree_are_named(name):
    with pytest.raises(ValueError, match=r"target_log_probs has shape \(3,\), scores \(1, 3\)"):
        inspect.unwrap(FITS[name])(SCORES, TARGET[0])
