"""Regressions of log-ratios: every published row in its own paper's words, optima, groups that are flat or padded."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempi_jax import losses

SEEDS = st.integers(0, 1000)
# One group of three and one of two (the third is padding).
RHO = jnp.array([[0.5, -1.0, 2.0], [1.0, 0.0, jnp.nan]])
GAINS = jnp.array([[1.0, 0.0, 2.0], [3.0, 1.0, jnp.inf]])
WHERE = jnp.array([[True, True, True], [True, True, False]])


def groups(seed, groups=3, samples=4):
    """Log-ratios and gains."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=(2, groups, samples)), jnp.float32)


def slope(terms, rho):
    """Gradient of the sum of terms."""
    return jax.grad(lambda x: jnp.sum(terms(x)))(rho)


def test_terms_by_hand():
    # 2 rho - (g - 1): 1 - 0, -2 + 1, 4 - 1; with 2 for the second group: 2 - 1, 0 + 1.
    found = losses.log_ratio_regression(RHO, GAINS, scale=2.0, baseline=jnp.array([1.0, 2.0]), where=WHERE)
    np.testing.assert_allclose(found, [[1.0, 1.0, 9.0], [1.0, 1.0, 0.0]])
    gradient = slope(
        lambda x: losses.log_ratio_regression(x, GAINS, scale=2.0, baseline=jnp.array([1.0, 2.0]), where=WHERE), RHO
    )
    # 2 * 2 * residual.
    np.testing.assert_allclose(gradient, [[4.0, -4.0, 12.0], [4.0, 4.0, 0.0]])


def test_baselines_by_hand():
    np.testing.assert_allclose(losses.group_mean(GAINS, where=WHERE), [1.0, 2.0], rtol=1e-6)
    # log((e + 1 + e^2) / 3) and 2 log((e^1.5 + e^0.5) / 2).
    np.testing.assert_allclose(losses.log_mean_exp(GAINS, 1.0, where=WHERE)[0], np.log((np.e + 1 + np.e**2) / 3))
    second = 2 * np.log((np.exp(1.5) + np.exp(0.5)) / 2)
    np.testing.assert_allclose(losses.log_mean_exp(GAINS, 2.0, where=WHERE)[1], second, rtol=1e-6)
    # g - 2 rho: 0, 2, -2 and 1, 1.
    np.testing.assert_allclose(losses.fitted_baseline(RHO, GAINS, scale=2.0, where=WHERE), [0.0, 1.0], atol=1e-6)


def test_centred_and_pairs_by_hand():
    # 2 rho - g: 0, -2, 2 with variance 8 / 2; -1, -1 with 0.  Squared differences 4, 4, 16: mean 8.
    np.testing.assert_allclose(losses.centred_regression(RHO, GAINS, scale=2.0, where=WHERE), [4.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(losses.pair_regression(RHO, GAINS, scale=2.0, where=WHERE), [8.0, 0.0], atol=1e-6)


@given(SEEDS)
def test_log_mean_exp_lies_between_the_largest_and_the_mean(seed):
    gains = groups(seed)[1]
    np.testing.assert_allclose(losses.log_mean_exp(gains, 1e-3), gains.max(-1) + 1e-3 * np.log(0.25), rtol=1e-4)
    np.testing.assert_allclose(losses.log_mean_exp(gains, 1e4), losses.group_mean(gains), atol=1e-3)
    np.testing.assert_allclose(losses.log_mean_exp(gains + 5.0, 0.7), losses.log_mean_exp(gains, 0.7) + 5.0, rtol=1e-5)
    assert np.all(np.isfinite(losses.log_mean_exp(1e4 * gains, 1e-3)))


@given(SEEDS)
def test_opmd_has_its_papers_gradient(seed):
    # -2 tau [(r - r-bar) grad log pi - tau/2 grad rho^2], in rho: -2 tau (r - r-bar) + 2 tau^2 rho.
    (rho, rewards), tau = groups(seed), 0.3
    found = slope(
        lambda x: losses.log_ratio_regression(x, rewards, scale=tau, baseline=losses.group_mean(rewards)), rho
    )
    advantages = rewards - jnp.mean(rewards, axis=-1, keepdims=True)
    np.testing.assert_allclose(found, -2 * tau * advantages + 2 * tau**2 * rho, rtol=1e-4, atol=1e-5)


def test_the_optimal_policy_has_no_residual_at_the_exact_partition():
    # OAPL, A*-PO: five answers, each sampled in proportion to the base, here uniform; pi = base e^(r / beta) / Z.
    rewards, beta = jnp.array([[0.3, -1.0, 2.0, 0.5, 0.0]]), 0.7
    optimal = jax.nn.log_softmax(rewards / beta) - np.log(1 / 5)
    baseline = losses.log_mean_exp(rewards, beta)
    terms = losses.log_ratio_regression(optimal, rewards, scale=beta, baseline=baseline)
    np.testing.assert_allclose(terms, np.zeros((1, 5)), atol=1e-10)
    # A baseline from other samples, [G, 8], of the reference: only its number enters.
    of_reference = losses.log_mean_exp(jnp.tile(rewards, (1, 8)), beta)
    np.testing.assert_allclose(of_reference, baseline, rtol=1e-6)


@given(SEEDS)
def test_gvpo_is_half_of_bessels_variance_and_rloos_gradient_at_the_start(seed):
    (rho, rewards), beta = groups(seed), 0.1
    gvpo = lambda x: 0.5 * losses.centred_regression(x, rewards, scale=beta)  # noqa: E731
    expected = np.var(beta * np.asarray(rho, np.float64) - rewards, axis=-1, ddof=1) / 2
    np.testing.assert_allclose(gvpo(rho), expected, rtol=1e-4, atol=1e-6)
    # rloo: mean over K of (r_i - mean of the others) grad log pi_i, to be ascended.
    others = (np.sum(rewards, axis=-1, keepdims=True) - rewards) / 3
    np.testing.assert_allclose(slope(gvpo, 0 * rho), -beta * (rewards - others) / 4, rtol=1e-4, atol=1e-6)


@given(SEEDS)
def test_tba_is_a_variance_and_gvpo_on_the_reference(seed):
    (rho, rewards), beta = groups(seed), 0.1
    gains = rewards / beta

    def tba(x):
        baseline = losses.fitted_baseline(x, gains, scale=1.0)
        return losses.log_ratio_regression(x, gains, scale=1.0, baseline=baseline)

    def attached(x):
        return jnp.square(x - gains + jnp.mean(gains - x, axis=-1, keepdims=True))

    terms = tba(rho)
    np.testing.assert_allclose(terms.mean(-1), np.var(np.asarray(rho - gains, np.float64), axis=-1), rtol=1e-4)
    # 2 (K - 1) / (K beta^2) x gvpo, K = 4.
    gvpo = 0.5 * losses.centred_regression(rho, rewards, scale=beta)
    np.testing.assert_allclose(terms.mean(-1), 2 * 3 / (4 * beta**2) * gvpo, rtol=1e-4)
    # Detached or not, the gradient is the same; and the baseline itself has none.
    np.testing.assert_allclose(slope(tba, rho), slope(attached, rho), rtol=1e-3, atol=1e-3)
    assert not np.any(slope(lambda x: losses.fitted_baseline(x, gains, scale=1.0), rho))


@given(SEEDS)
def test_rebel_over_all_pairs_and_ipo_as_its_case(seed):
    (rho, rewards), eta = groups(seed), 0.5
    exact, gains = np.asarray(rho, np.float64), np.asarray(rewards, np.float64)
    first, second = np.triu_indices(4, 1)
    residuals = (exact[:, first] - exact[:, second]) / eta - (gains[:, first] - gains[:, second])
    found = losses.pair_regression(rho, rewards, scale=1 / eta)
    np.testing.assert_allclose(found, np.mean(residuals**2, axis=-1), rtol=1e-4)
    # IPO: eta (r - r') = 1 / (2 beta), its term is eta^2 times REBEL's.
    beta = 0.1
    pair = jnp.broadcast_to(jnp.array([0.5 / (beta * eta), 0.0]), (3, 2))
    rebel = losses.pair_regression(rho[:, :2], pair, scale=1 / eta)
    np.testing.assert_allclose(losses.ipo_loss(rho[:, 0], rho[:, 1], beta), eta**2 * rebel, rtol=1e-3)


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0, 5.0])
def test_qrpo_has_the_partition_of_quantiles(beta):
    # beta log E[e^(T / beta)] of F uniform, by the midpoint rule; shifted by the largest T for float64.
    quantiles = (np.arange(1_000_000) + 0.5) / 1_000_000
    uniform = 1.0 + beta * np.log(np.mean(np.exp((quantiles - 1.0) / beta)))
    np.testing.assert_allclose(losses.quantile_baseline(beta), uniform, rtol=1e-6)
    logs = beta * np.log(np.mean(np.exp(np.log(quantiles) / beta)))
    np.testing.assert_allclose(losses.log_quantile_baseline(beta), logs, rtol=1e-5)
    assert np.isfinite(losses.quantile_baseline(1e-6))


def test_qrpo_at_its_optimum():
    # Six answers with quantiles that fill [0, 1] evenly stand in for all: residuals vanish as their number grows.
    beta = 0.5
    quantiles = jnp.asarray((np.arange(1000) + 0.5) / 1000, jnp.float32)[None]
    optimal = jax.nn.log_softmax(quantiles / beta) + np.log(1000)
    terms = losses.log_ratio_regression(optimal, quantiles, scale=beta, baseline=losses.quantile_baseline(beta))
    np.testing.assert_allclose(terms, np.zeros((1, 1000)), atol=1e-8)


@pytest.mark.parametrize("gain", [0.1, 1 / 3, -1.7])
def test_a_flat_group_has_no_residual_and_no_gradient_at_the_start(gain):
    # The mean of three equal numbers may differ from them by rounding; no baseline does.
    gains, rho = jnp.full((2, 3), gain, jnp.float32), jnp.zeros((2, 3))
    for baseline in (
        losses.group_mean(gains),
        losses.log_mean_exp(gains, 0.3),
        losses.fitted_baseline(rho, gains, scale=0.3),
    ):
        np.testing.assert_array_equal(
            slope(lambda x, b=baseline: losses.log_ratio_regression(x, gains, scale=0.3, baseline=b), rho), 0.0
        )
    np.testing.assert_array_equal(slope(lambda x: losses.pair_regression(x, gains, scale=0.3), rho), 0.0)


def test_padding_may_hold_anything():
    alone = [x[1:, :2] for x in (RHO, GAINS)]
    baselines = {
        "mean": lambda rho, gains, **o: losses.group_mean(gains, **o),
        "log_mean_exp": lambda rho, gains, **o: losses.log_mean_exp(gains, 0.5, **o),
        "fitted": lambda rho, gains, **o: losses.fitted_baseline(rho, gains, scale=0.5, **o),
    }
    fits = {
        name: lambda rho, gains, b=b, **o: losses.log_ratio_regression(
            rho, gains, scale=0.5, baseline=b(rho, gains, **o), **o
        )
        for name, b in baselines.items()
    }
    fits["centred"] = lambda rho, gains, **o: losses.centred_regression(rho, gains, scale=0.5, **o)
    for name, fit in fits.items():
        found, expected = fit(RHO, GAINS, where=WHERE)[1], fit(*alone)[0]
        np.testing.assert_allclose(found[:2] if found.ndim else found, expected, rtol=1e-6, err_msg=name)
        gradient = slope(lambda x, f=fit: f(x, GAINS, where=WHERE), RHO)
        np.testing.assert_allclose(gradient[1, :2], slope(lambda x, f=fit: f(x, alone[1]), alone[0])[0], rtol=1e-5)
        assert gradient[1, 2] == 0
    # Nobody is there, or one alone: nothing to compare.
    for where in (jnp.zeros((2, 3), bool), jnp.array([[True, False, False]] * 2)):
        np.testing.assert_array_equal(losses.pair_regression(RHO, GAINS, scale=0.5, where=where), 0.0)


def test_gains_are_numbers_and_a_learned_baseline_is_not():
    rho, gains = groups(0)
    found = jax.grad(lambda g, b: jnp.sum(losses.log_ratio_regression(rho, g, scale=0.5, baseline=b)), argnums=(0, 1))(
        gains, jnp.zeros(3)
    )
    assert not np.any(found[0])
    # d (scale rho - g + b)^2 / d b = 2 residual, summed over the group.
    np.testing.assert_allclose(found[1], jnp.sum(2 * (0.5 * rho - gains), axis=-1), rtol=1e-5)
    assert not np.any(jax.grad(lambda g: jnp.sum(losses.centred_regression(rho, g, scale=0.5)))(gains))


def test_what_means_nothing_is_named():
    rho, gains = groups(0)
    with pytest.raises(ValueError, match=r"log_ratio_regression: scale, .* must be positive and finite, not 0\.0"):
        losses.log_ratio_regression(rho, gains, scale=0.0, baseline=0.0)
    with pytest.raises(
        ValueError, match=r"baseline has shape \(4,\), gains \(3, 4\); give one number, one for each gro"
    ):
        losses.log_ratio_regression(rho, gains, scale=1.0, baseline=jnp.zeros(4))
    with pytest.raises(ValueError, match=r"log_mean_exp: temperature is 0\.0"):
        losses.log_mean_exp(gains, 0.0)
    with pytest.raises(ValueError, match=r"quantile_baseline: beta is -1\.0"):
        losses.quantile_baseline(-1.0)
    with pytest.raises(ValueError, match=r"centred_regression: gains has shape \(4,\), log_ratios \(3, 4\)"):
        inspect.unwrap(losses.centred_regression)(rho, gains[0], scale=1.0)
