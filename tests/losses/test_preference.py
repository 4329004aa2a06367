"""DPO and its variants: values by hand, exact expectations over flipped labels, optima, errors."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempi_jax import losses

SEEDS = st.integers(0, 1000)
BETAS = st.sampled_from([0.01, 0.1, 1.0, 10.0])
LOSSES = {
    "dpo": losses.dpo_loss,
    "ipo": losses.ipo_loss,
    "robust": functools.partial(losses.robust_dpo_loss, label_noise=0.2),
    "conservative": functools.partial(losses.conservative_dpo_loss, label_noise=0.2),
}


def pairs(seed, number=6, scale=10.0):
    """Log-ratios of chosen and rejected responses."""
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=(2, number)), jnp.float32)


def total(loss):
    """The sum of a loss's terms."""
    return lambda *arrays, **options: jnp.sum(loss(*arrays, **options))


def softplus(x):
    return np.logaddexp(0.0, np.asarray(x, np.float64))


def test_values_by_hand():
    # Delta = 2 and -2, beta 1/2: h = 1 and -1, -log sigma(1) = 0.313262, -log sigma(-1) = 1.313262.
    chosen, rejected = jnp.array([3.0, -1.0]), jnp.array([1.0, 1.0])
    np.testing.assert_allclose(losses.dpo_loss(chosen, rejected, 0.5), [0.313262, 1.313262], rtol=1e-5)
    # (2 - 1)^2 and (-2 - 1)^2.
    np.testing.assert_allclose(losses.ipo_loss(chosen, rejected, 0.5), [1.0, 9.0], rtol=1e-6)
    # e = 1/4: (0.75 a - 0.25 b) / 0.5 with (a, b) = (0.313262, 1.313262) and swapped: -0.186738 and 1.813262.
    robust = losses.robust_dpo_loss(chosen, rejected, 0.5, 0.25)
    np.testing.assert_allclose(robust, [-0.186738, 1.813262], rtol=1e-5)
    # 0.75 a + 0.25 b = 0.563262, and 0.75 b + 0.25 a = 1.063262.
    smooth = losses.conservative_dpo_loss(chosen, rejected, 0.5, 0.25)
    np.testing.assert_allclose(smooth, [0.563262, 1.063262], rtol=1e-5)


@given(SEEDS, BETAS)
def test_dpo_in_float64_and_as_the_reward_models_loss_on_implicit_rewards(seed, beta):
    chosen, rejected = pairs(seed)
    found = losses.dpo_loss(chosen, rejected, beta)
    gaps = beta * (np.asarray(chosen, np.float64) - np.asarray(rejected))
    np.testing.assert_allclose(found, softplus(-gaps), rtol=1e-4, atol=1e-30)
    # (5) is (8) of the implicit rewards (4): L_R on them is L_DPO.
    rewards = (losses.implicit_reward(x, jnp.zeros(6), beta) for x in (chosen, rejected))
    np.testing.assert_allclose(losses.reward_model_loss(next(rewards) - next(rewards)), found, rtol=1e-5, atol=1e-30)


@given(SEEDS, st.sampled_from([0.0, 0.1, 0.4]))
def test_rdpo_is_unbiased_for_the_clean_loss(seed, noise):
    # The exact expectation over all 2^4 ways to flip the labels of 4 pairs.
    chosen, rejected = pairs(seed, 4, 2.0)
    expected = 0.0
    for flips in itertools.product([False, True], repeat=4):
        probability = np.prod([noise if flip else 1 - noise for flip in flips])
        flipped = jnp.array(flips)
        seen = jnp.where(flipped, rejected, chosen), jnp.where(flipped, chosen, rejected)
        expected += probability * np.asarray(losses.robust_dpo_loss(*seen, 0.5, noise))
    np.testing.assert_allclose(expected, losses.dpo_loss(chosen, rejected, 0.5), rtol=1e-4, atol=1e-5)


def test_without_noise_all_three_are_dpo():
    chosen, rejected = pairs(0)
    clean = losses.dpo_loss(chosen, rejected, 0.1)
    for noisy in (losses.robust_dpo_loss, losses.conservative_dpo_loss):
        np.testing.assert_allclose(noisy(chosen, rejected, 0.1, 0.0), clean, rtol=1e-6)


@pytest.mark.parametrize("frequency", [0.5, 0.7, 1.0])
def test_optimum_of_ipo(frequency):
    # p (D - t)^2 + (1 - p)(-D - t)^2 with t = 1 / (2 beta) has its minimum at D = (2 p - 1) t, finite even at p = 1.
    beta, best = 0.1, (2 * frequency - 1) / 0.2

    def loss(margin):
        zero = jnp.zeros((1,))
        either = losses.ipo_loss(margin[None], zero, beta), losses.ipo_loss(zero, margin[None], beta)
        return frequency * either[0][0] + (1 - frequency) * either[1][0]

    slope, curvature = jax.grad(loss)(jnp.float32(best)), jax.grad(jax.grad(loss))(jnp.float32(best))
    np.testing.assert_allclose([slope, curvature], [0.0, 2.0], atol=1e-5)


def test_optimum_of_cdpo():
    # sigma(h) = 1 - e, here log 4 / beta; DPO still pulls there.
    margin = jnp.full((1,), np.log(4.0) / 0.5, jnp.float32)
    slope = jax.grad(total(losses.conservative_dpo_loss))(margin, jnp.zeros((1,)), 0.5, 0.2)
    np.testing.assert_allclose(slope, 0.0, atol=1e-7)
    assert jax.grad(total(losses.dpo_loss))(margin, jnp.zeros((1,)), 0.5)[0] < -0.05


@pytest.mark.parametrize("name", LOSSES)
def test_padding_may_hold_anything(name):
    chosen, rejected = pairs(1, 3, 1.0)
    where = jnp.array([True, True, True, False, False])
    junk = jnp.array([-jnp.inf, jnp.nan])
    padded = jnp.append(chosen, junk), jnp.append(rejected, junk)
    terms = LOSSES[name](*padded, 0.3, where=where)
    np.testing.assert_allclose(terms, np.append(LOSSES[name](chosen, rejected, 0.3), [0.0, 0.0]), rtol=1e-6)
    gradient = jax.grad(total(LOSSES[name]), argnums=(0, 1))
    gradients, expected = gradient(*padded, 0.3, where=where), gradient(chosen, rejected, 0.3)
    for found, alone in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(found, np.append(alone, [0.0, 0.0]), rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_margins_stay_finite(name):
    chosen, rejected = jnp.array([1e4, -1e4]), jnp.array([-1e4, 1e4])
    value, gradient = jax.value_and_grad(total(LOSSES[name]))(chosen, rejected, 1.0)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("beta", [0.0, -0.1, float("nan"), float("inf")])
def test_a_beta_that_means_nothing_is_named(name, beta):
    with pytest.raises(ValueError, match=r"(ipo|dpo)_loss: beta.* must be positive and finite .*, not"):
        LOSSES[name](*pairs(0), beta)


@pytest.mark.parametrize("noise", [0.5, 1.0, -0.1, float("nan")])
@pytest.mark.parametrize("loss", [losses.robust_dpo_loss, losses.conservative_dpo_loss])
def test_a_label_noise_that_means_nothing_is_named(loss, noise):
    with pytest.raises(ValueError, match=r"dpo_loss: label_noise.* \[0, 1/2\).*swap chosen and rejected.*, not"):
        loss(*pairs(0), 0.1, noise)


def test_beta_may_be_traced_and_shapes_that_disagree_are_named():
    np.testing.assert_allclose(jax.jit(losses.dpo_loss)(*pairs(0), 0.1), losses.dpo_loss(*pairs(0), 0.1), rtol=1e-6)
    with pytest.raises(ValueError, match=r"rejected_log_ratios has shape \(5,\), chosen_log_ratios \(6,\)"):
        inspect.unwrap(losses.dpo_loss)(pairs(0)[0], jnp.zeros(5), 0.1)
