"""beta-DPO: both readings by hand, the filter, what is detached, the random filter's frequencies, moments that move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import losses

# beta 1/2: margins M = 0.5, 1, 1.5, 2, 10.
CHOSEN = jnp.array([1.0, 2.0, 3.0, 4.0, 20.0])
REJECTED = jnp.zeros(5)
MARGINS = 0.5 * CHOSEN
MOMENTS = losses.MarginMoments(jnp.float32(1.0), jnp.float32(0.5), jnp.float32(3.0))
READINGS = [losses.published_beta, losses.released_beta]


def test_published_by_hand():
    # M_0 = 1: the outlier goes.  Over the batch mean M = 3, beta = 0.5 (1 + 0.6 * 2) = 1.1.
    found = losses.published_beta(CHOSEN, REJECTED, 0.5, MOMENTS)
    np.testing.assert_array_equal(found.kept, [True, True, True, True, False])
    np.testing.assert_allclose(found.beta, 1.1, rtol=1e-6)
    # Deviations -2.5, -2, -1.5, -1, 7: variance 62.5 / 5 = 12.5.  0.9 * 1 + 0.1 * 3 and 0.9 * 0.5 + 0.1 sqrt(12.5).
    np.testing.assert_allclose(found.moments, [1.2, 0.45 + 0.1 * np.sqrt(12.5), 4.0], rtol=1e-6)


def test_released_by_hand():
    # Delta has mean 6 and variance 250 / 4 over n - 1.  M_0 = 0.9 + 0.6 = 1.5, deviation 0.45 + 0.1 sqrt(62.5) = 1.24:
    # the outlier goes, the mean of the others is 2.5, beta = 0.5 (1 + 0.6 * 1) = 0.8.
    found = losses.released_beta(CHOSEN, REJECTED, 0.5, MOMENTS)
    np.testing.assert_array_equal(found.kept, [True, True, True, True, False])
    np.testing.assert_allclose(found.beta, 0.8, rtol=1e-6)
    np.testing.assert_allclose(found.moments, [1.5, 0.45 + 0.1 * np.sqrt(62.5), 4.0], rtol=1e-6)


def test_the_first_batch_by_hand():
    # Published: its own moments, no excess, beta_0.  Released: a tenth of them, M_0 = 0.6; mean of the kept 2.5 (the
    # four of smallest Delta), beta = 0.5 (1 + 0.6 * 1.9) = 1.07.
    published = losses.published_beta(CHOSEN, REJECTED, 0.5, losses.initial_moments())
    np.testing.assert_allclose(published.beta, 0.5, rtol=1e-6)
    np.testing.assert_allclose(published.moments, [3.0, np.sqrt(12.5), 1.0], rtol=1e-6)
    released = losses.released_beta(CHOSEN, REJECTED, 0.5, losses.initial_moments())
    np.testing.assert_allclose(released.beta, 1.07, rtol=1e-6)
    np.testing.assert_allclose(released.moments, [0.6, 0.1 * np.sqrt(62.5), 1.0], rtol=1e-6)


def test_moments_by_hand():
    # M = 0.5, 1, 1.5, 2: mean 1.25, squares 2 (0.75^2 + 0.25^2) = 1.25 over 4, or over 3.
    where = jnp.array([True, True, True, True, False])
    margins = MARGINS.at[4].set(jnp.nan)
    np.testing.assert_allclose(losses.margin_moments(margins, where=where), [1.25, np.sqrt(1.25 / 4), 1.0], rtol=1e-6)
    sample = losses.margin_moments(margins, bessel=True, where=where)
    np.testing.assert_allclose(sample.deviation, np.sqrt(1.25 / 3), rtol=1e-6)
    # 0.9 * 1 + 0.1 * 1.25.
    np.testing.assert_allclose(losses.update_margin_moments(MOMENTS, sample).mean, 1.025, rtol=1e-6)
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\)"):
        losses.update_margin_moments(MOMENTS, sample, 1.0)


@pytest.mark.parametrize("reading", READINGS)
def test_a_batch_without_pairs_moves_no_moments(reading):
    found = reading(CHOSEN * jnp.nan, REJECTED, 0.5, MOMENTS, where=jnp.zeros(5, bool))
    np.testing.assert_array_equal(found.moments, MOMENTS)
    assert not np.any(found.kept)
    assert np.isfinite(found.beta)


@pytest.mark.parametrize("reading", READINGS)
def test_without_sensitivity_and_filter_it_is_dpo(reading):
    found = reading(CHOSEN, REJECTED, 0.5, MOMENTS, sensitivity=0.0, kept_fraction=1.0)
    terms = losses.beta_dpo_loss(CHOSEN, REJECTED, found.beta, found.kept)
    np.testing.assert_allclose(terms, losses.dpo_loss(CHOSEN, REJECTED, 0.5), rtol=1e-6)


def test_beta_is_a_positive_number():
    # M = -100: 0.5 (1 - 0.6 * 101) is far below 0.
    beta = losses.batch_beta(jnp.full((2,), -100.0), MOMENTS, 0.5)
    np.testing.assert_allclose(beta, 1e-3, rtol=1e-6)


@pytest.mark.parametrize("reading", READINGS)
def test_terms_and_gradient_are_dpos_on_the_kept_pairs(reading):
    def total(chosen):
        found = reading(chosen, REJECTED, 0.5, MOMENTS)
        return jnp.sum(losses.beta_dpo_loss(chosen, REJECTED, found.beta, found.kept)), found.beta

    # No gradient flows through beta, although the log-ratios that make it are those of the policy.
    (value, beta), gradient = jax.value_and_grad(total, has_aux=True)(CHOSEN)
    dpo = lambda chosen: jnp.sum(losses.dpo_loss(chosen, REJECTED[:4], float(beta)))  # noqa: E731
    np.testing.assert_allclose(value, dpo(CHOSEN[:4]), rtol=1e-5)
    np.testing.assert_allclose(gradient, np.append(jax.grad(dpo)(CHOSEN[:4]), 0.0), rtol=1e-5)
    # A beta for each pair, sliced like the pairs, is the same, and a number.
    kept = jnp.array([True, True, True, True, False])
    sliced = losses.beta_dpo_loss(CHOSEN[2:], REJECTED[2:], jnp.full((3,), beta), kept[2:])
    np.testing.assert_allclose(sliced, losses.beta_dpo_loss(CHOSEN, REJECTED, beta, kept)[2:], rtol=1e-6)
    assert not np.any(jax.grad(lambda b: jnp.sum(losses.beta_dpo_loss(CHOSEN, REJECTED, b, kept)))(beta))


@pytest.mark.parametrize("reading", READINGS)
def test_padding_is_neither_kept_nor_counted(reading):
    where = jnp.array([True, True, True, True, True, False, False])
    padded = [jnp.append(x, jnp.array([jnp.nan, -jnp.inf])) for x in (CHOSEN, REJECTED)]
    found, alone = reading(*padded, 0.5, MOMENTS, where=where), reading(CHOSEN, REJECTED, 0.5, MOMENTS)
    np.testing.assert_allclose(found.beta, alone.beta, rtol=1e-6)
    np.testing.assert_array_equal(found.kept, np.append(alone.kept, [False, False]))
    gradient = jax.grad(lambda x: jnp.sum(losses.beta_dpo_loss(x, padded[1], found.beta, found.kept)))(padded[0])
    assert np.all(np.isfinite(gradient))


def test_random_filter_draws_by_the_gaussian_weight():
    # One of two pairs, at M_0 and one deviation away: odds 1 : exp(-1/2), so the first is kept in 62.2 % of draws.
    keys = jax.random.split(jax.random.key(0), 4000)
    margins = jnp.array([1.0, 1.5])
    kept = jax.jit(jax.vmap(lambda key: losses.typical_pairs(margins, MOMENTS, 0.5, key=key)))(keys)
    assert np.all(kept.sum(axis=1) == 1)
    np.testing.assert_allclose(kept[:, 0].mean(), 1 / (1 + np.exp(-0.5)), atol=0.03)


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sensitivity": -0.1}, "sensitivity must be at least 0"),
        ({"kept_fraction": 0.0}, "fraction is 0.0"),
        ({"momentum": 1.0}, "momentum must lie in"),
    ],
)
def test_settings_that_mean_nothing_are_named(reading, changes, message):
    with pytest.raises(ValueError, match=message):
        reading(CHOSEN, REJECTED, 0.5, MOMENTS, **changes)
