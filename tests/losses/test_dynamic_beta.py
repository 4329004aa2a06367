"""beta-DPO: beta and the filter by hand, what is detached, the random filter's frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import losses

# beta 1/2: margins M = 0.5, 1, 1.5, 2, 10.
CHOSEN = jnp.array([1.0, 2.0, 3.0, 4.0, 20.0])
REJECTED = jnp.zeros(5)
MARGINS = 0.5 * CHOSEN
MOMENTS = losses.MarginMoments(jnp.float32(1.0), jnp.float32(0.5))


def test_by_hand():
    # M_0 = 1: the outlier goes, mean M = 1.25, beta = 0.5 (1 + 0.6 * 0.25) = 0.575.
    kept = losses.typical_pairs(MARGINS, MOMENTS, 0.8)
    np.testing.assert_array_equal(kept, [True, True, True, True, False])
    np.testing.assert_allclose(losses.batch_beta(MARGINS, MOMENTS, 0.5, where=kept), 0.575, rtol=1e-6)
    found = losses.beta_dpo_loss(CHOSEN, REJECTED, 0.5, MOMENTS)
    np.testing.assert_allclose(found, np.mean(np.log1p(np.exp(-0.575 * np.arange(1, 5)))), rtol=1e-5)


def test_moments_by_hand():
    # M = 0.5, 1, 1.5, 2: mean 1.25, variance (0.75^2 + 0.25^2) / 2 = 0.3125.
    where = jnp.array([True, True, True, True, False])
    moments = losses.margin_moments(CHOSEN.at[4].set(jnp.nan), REJECTED, 0.5, where=where)
    np.testing.assert_allclose(moments, [1.25, np.sqrt(0.3125)], rtol=1e-6)
    # 0.9 * 1 + 0.1 * 1.25.
    np.testing.assert_allclose(losses.update_margin_moments(MOMENTS, moments).mean, 1.025, rtol=1e-6)
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\)"):
        losses.update_margin_moments(MOMENTS, moments, 1.0)


def test_the_first_step_uses_the_moments_of_the_batch():
    moments = losses.margin_moments(CHOSEN, REJECTED, 0.5)
    found = losses.beta_dpo_loss(CHOSEN, REJECTED, 0.5, moments)
    np.testing.assert_allclose(losses.beta_dpo_loss(CHOSEN, REJECTED, 0.5), found, rtol=1e-6)


def test_without_sensitivity_and_filter_it_is_dpo():
    found = losses.beta_dpo_loss(CHOSEN, REJECTED, 0.5, MOMENTS, sensitivity=0.0, kept_fraction=1.0)
    np.testing.assert_allclose(found, losses.dpo_loss(CHOSEN, REJECTED, 0.5), rtol=1e-6)


def test_beta_is_a_positive_number():
    # M = -100: 0.5 (1 - 0.6 * 101) is far below 0.
    beta = losses.batch_beta(jnp.full((2,), -100.0), MOMENTS, 0.5)
    np.testing.assert_allclose(beta, 1e-3, rtol=1e-6)
    # The gradient is DPO's on the kept pairs at the beta of the batch: none flows through beta.
    gradient = jax.grad(losses.beta_dpo_loss)(CHOSEN, REJECTED, 0.5, MOMENTS)
    expected = jax.grad(losses.dpo_loss)(CHOSEN[:4], REJECTED[:4], 0.575)
    np.testing.assert_allclose(gradient, np.append(expected, 0.0), rtol=1e-5)


def test_padding_is_neither_kept_nor_counted():
    where = jnp.array([True, True, True, True, True, False, False])
    chosen, rejected = (jnp.append(x, jnp.array([jnp.nan, -jnp.inf])) for x in (CHOSEN, REJECTED))
    value, gradient = jax.value_and_grad(losses.beta_dpo_loss)(chosen, rejected, 0.5, MOMENTS, where=where)
    np.testing.assert_allclose(value, losses.beta_dpo_loss(CHOSEN, REJECTED, 0.5, MOMENTS), rtol=1e-6)
    assert np.all(np.isfinite(gradient))


def test_random_filter_draws_by_the_gaussian_weight():
    # One of two pairs, at M_0 and one deviation away: odds 1 : exp(-1/2), so the first is kept in 62.2 % of draws.
    keys = jax.random.split(jax.random.key(0), 4000)
    margins = jnp.array([1.0, 1.5])
    kept = jax.jit(jax.vmap(lambda key: losses.typical_pairs(margins, MOMENTS, 0.5, key=key)))(keys)
    assert np.all(kept.sum(axis=1) == 1)
    np.testing.assert_allclose(kept[:, 0].mean(), 1 / (1 + np.exp(-0.5)), atol=0.03)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"sensitivity": -0.1}, "sensitivity must be at least 0"), ({"kept_fraction": 0.0}, "fraction is 0.0")],
)
def test_settings_that_mean_nothing_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        losses.beta_dpo_loss(CHOSEN, REJECTED, 0.5, **changes)
