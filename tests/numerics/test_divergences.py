"""Divergences: closed values, gradients, estimators against the exact value, and generators against derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import numerics

P = jnp.array([0.5, 0.3, 0.2])
Q = jnp.array([0.2, 0.2, 0.6])
LOG_P, LOG_Q = jnp.log(P), jnp.log(Q)
FAMILY = {
    "kl": numerics.KL,
    "reverse_kl": numerics.REVERSE_KL,
    "chi_squared": numerics.CHI_SQUARED,
    "jensen_shannon": numerics.JENSEN_SHANNON,
    "squared_hellinger": numerics.SQUARED_HELLINGER,
    "alpha_-1": numerics.alpha_divergence(-1.0),
    "alpha_0": numerics.alpha_divergence(0.0),
    "alpha_0.5": numerics.alpha_divergence(0.5),
    "alpha_1": numerics.alpha_divergence(1.0),
    "alpha_3": numerics.alpha_divergence(3.0),
}


@pytest.mark.parametrize("name", FAMILY)
def test_generator_derivative_and_inverse_agree(name):
    divergence = FAMILY[name]
    log_u = jnp.linspace(-3.0, 3.0, 13)
    # d f / d log u = u f'(u), and all f have f'(1) = 0; the derivative is up to a constant.
    slope = jax.vmap(jax.grad(divergence.generator))(log_u)
    derivative = divergence.derivative(log_u) - divergence.derivative(jnp.zeros(()))
    np.testing.assert_allclose(slope, jnp.exp(log_u) * derivative, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(jax.vmap(jax.grad(divergence.derivative))(log_u), divergence.curvature(log_u), rtol=1e-5)
    np.testing.assert_allclose(divergence.inverse(divergence.derivative(log_u)), log_u, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(divergence.generator(jnp.zeros(())), 0.0, atol=1e-7)
    np.testing.assert_allclose(divergence(LOG_P, LOG_P), 0.0, atol=1e-6)


# p f(q / p) as it would be written down, in float64.
GENERATORS = {
    "kl": lambda u: u * np.log(u) - u + 1,
    "reverse_kl": lambda u: -np.log(u) + u - 1,
    "chi_squared": lambda u: (u - 1) ** 2 / 2,
    "jensen_shannon": lambda u: (u * np.log(u) - (u + 1) * np.log((u + 1) / 2)) / 2,
    "squared_hellinger": lambda u: (np.sqrt(u) - 1) ** 2 / 2,
    "alpha_-1": lambda u: (1 / u + u - 2) / 2,
    "alpha_0.5": lambda u: 2 * (np.sqrt(u) - 1) ** 2,
    "alpha_3": lambda u: (u**3 - 3 * u + 2) / 6,
}


@pytest.mark.parametrize("name", GENERATORS)
def test_terms_stay_exact_far_from_one(name):
    log_q, log_p = np.meshgrid(np.linspace(-40.0, 2.0, 29), np.linspace(-40.0, 2.0, 31))
    expected = np.exp(log_p) * GENERATORS[name](np.exp(log_q - log_p))
    found = FAMILY[name].perspective(jnp.asarray(log_q, jnp.float32), jnp.asarray(log_p, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-30)
    # A sampled ratio of exp(10000): what stays is q f(u) / u, by hand log(2) / 2 and 1 / 2 of it, and for KL log u.
    limits = {"jensen_shannon": np.log(2) / 2, "squared_hellinger": 0.5, "reverse_kl": 1.0, "kl": 9999.0}
    if name in limits:
        np.testing.assert_allclose(
            FAMILY[name].perspective(jnp.zeros(()), -1e4 * jnp.ones(())), limits[name], rtol=1e-5
        )


def test_values_by_hand():
    kl = np.sum(np.asarray(Q) * np.log(np.asarray(Q / P)))
    np.testing.assert_allclose(numerics.KL(LOG_Q, LOG_P), kl, rtol=1e-5)
    np.testing.assert_allclose(numerics.REVERSE_KL(LOG_Q, LOG_P), numerics.KL(LOG_P, LOG_Q), rtol=1e-5)
    # sum (q - p)^2 / p = 0.09 / 0.5 + 0.01 / 0.3 + 0.16 / 0.2 = 1.01333; the generator has half of it.
    np.testing.assert_allclose(2 * numerics.CHI_SQUARED(LOG_Q, LOG_P), 1.0133333, rtol=1e-5)
    np.testing.assert_allclose(numerics.categorical_chi_squared(LOG_Q, LOG_P), 1.0133333, rtol=1e-5)
    np.testing.assert_allclose(numerics.categorical_kl(LOG_Q, LOG_P), kl, rtol=1e-5)
    np.testing.assert_allclose(numerics.categorical_reverse_kl(LOG_P, LOG_Q), kl, rtol=1e-5)
    shannon = numerics.categorical_jensen_shannon(LOG_P, LOG_Q)
    np.testing.assert_allclose(numerics.JENSEN_SHANNON(LOG_Q, LOG_P), shannon, rtol=1e-5)
    hellinger = 0.5 * np.sum((np.sqrt(P) - np.sqrt(Q)) ** 2)
    np.testing.assert_allclose(numerics.SQUARED_HELLINGER(LOG_Q, LOG_P), hellinger, rtol=1e-5)
    np.testing.assert_allclose(numerics.alpha_divergence(0.5)(LOG_Q, LOG_P), 4 * hellinger, rtol=1e-5)


EXACT = [
    numerics.categorical_kl,
    numerics.categorical_reverse_kl,
    numerics.categorical_jensen_shannon,
    numerics.categorical_chi_squared,
]


@pytest.mark.parametrize("function", EXACT)
def test_impossible_outcomes_are_no_nan(function):
    log_p = jnp.log(jnp.array([0.5, 0.5, 0.0]))
    np.testing.assert_allclose(function(log_p, log_p), 0.0, atol=1e-6)
    logits = jnp.array([0.3, -0.2, -jnp.inf])
    gradient = jax.grad(lambda x: function(log_p, jnp.where(x > -jnp.inf, jax.nn.log_softmax(x), -jnp.inf)))(logits)
    assert np.all(np.isfinite(gradient))


def test_a_disjoint_pair():
    log_p, log_q = jnp.log(jnp.array([1.0, 0.0])), jnp.log(jnp.array([0.0, 1.0]))
    assert float(numerics.categorical_kl(log_p, log_q)) == np.inf
    assert float(numerics.categorical_chi_squared(log_p, log_q)) == np.inf
    np.testing.assert_allclose(numerics.categorical_jensen_shannon(log_p, log_q), np.log(2.0), rtol=1e-6)


def test_entropy():
    # 0.5 log 2 + 0.3 log(10 / 3) + 0.2 log 5 = 1.029653; what cannot happen adds nothing, log 2 for two equal ones.
    log_probs = jnp.stack([LOG_P, jnp.log(jnp.array([0.5, 0.5, 0.0]))])
    np.testing.assert_allclose(numerics.categorical_entropy(log_probs), [1.029653, np.log(2)], rtol=1e-6)
    # The gradient in logits is -p (log p + S).
    slope = jax.grad(lambda x: numerics.categorical_entropy(jax.nn.log_softmax(x)))(LOG_P)
    np.testing.assert_allclose(slope, -P * (LOG_P + 1.029653), rtol=1e-4, atol=1e-7)
    assert np.all(np.isfinite(jax.jacobian(numerics.categorical_entropy)(log_probs)))


def test_sample_estimators():
    # E_p[k1] = E_p[k3] = KL exactly; E_p[k2] = sum p (log p/q)^2 / 2.
    kl = numerics.categorical_kl(LOG_P, LOG_Q)
    np.testing.assert_allclose(jnp.sum(P * numerics.k1(LOG_P, LOG_Q)), kl, rtol=1e-5)
    np.testing.assert_allclose(jnp.sum(P * numerics.k3(LOG_P, LOG_Q)), kl, rtol=1e-5)
    np.testing.assert_allclose(
        jnp.sum(P * numerics.k2(LOG_P, LOG_Q)), 0.5 * np.sum(P * (LOG_P - LOG_Q) ** 2), rtol=1e-5
    )
    assert np.all(np.asarray(numerics.k3(LOG_P, LOG_Q)) >= 0)


def test_gaussian_kl_decouples():
    mean, scale = jnp.array([0.5, -1.0]), jnp.array([0.7, 2.0])
    other_mean, other_scale = jnp.array([0.1, 0.0]), jnp.array([1.0, 1.5])
    shift, _ = numerics.gaussian_kl(mean, scale, other_mean, other_scale)
    # ((0.4 / 0.7)^2 + (1 / 2)^2) / 2 = 0.28827.
    np.testing.assert_allclose(shift, 0.5 * ((0.4 / 0.7) ** 2 + 0.25), rtol=1e-5)
    ratio = np.asarray(scale / other_scale)
    _, covariance = numerics.gaussian_kl(mean, scale, mean, other_scale)
    np.testing.assert_allclose(covariance, 0.5 * np.sum(ratio**2 - 1 - 2 * np.log(ratio)), rtol=1e-5)
