"""Distributions against numerical integration and sampling, and heads as they start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempi_jax.models import Categorical, CategoricalHead, Gaussian, GaussianHead, TanhGaussian, TanhGaussianHead

FEATURES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
means = st.floats(-2, 2)
scales = st.floats(0.1, 2)


def gaussian(mean, scale):
    return Gaussian(jnp.array([mean], jnp.float32), jnp.array([scale], jnp.float32))


def squashed(mean, scale, low=-1.0, high=3.0):
    return TanhGaussian(gaussian(mean, scale), jnp.array([low]), jnp.array([high]))


def grid(low, high, number=20001):
    """Midpoints and their width."""
    width = (high - low) / number
    return jnp.asarray(low + width * (np.arange(number) + 0.5), jnp.float32)[:, None], width


def wide(distribution, number):
    """The distribution at as many states."""
    return jax.tree.map(lambda leaf: jnp.tile(leaf, (number, 1)), distribution)


@given(means, scales)
def test_densities_of_gaussians_integrate_to_one_and_give_the_entropy(mean, scale):
    x, width = grid(mean - 10 * scale, mean + 10 * scale)
    log_density = np.asarray(wide(gaussian(mean, scale), len(x)).log_prob(x), np.float64)
    density = np.exp(log_density)
    np.testing.assert_allclose(density.sum() * width, 1.0, atol=1e-4)
    np.testing.assert_allclose(-(density * log_density).sum() * width, gaussian(mean, scale).entropy(), atol=1e-3)


@given(st.floats(-1, 1), st.floats(0.1, 1))
def test_densities_of_squashed_gaussians_integrate_to_one_and_give_the_entropy(mean, scale):
    # Over a = 1 + 2 tanh(u), in steps of u, so that the bounds are resolved: da = 2 (1 - tanh^2 u) du.
    u, width = grid(-7.0, 7.0)
    a = 1.0 + 2.0 * jnp.tanh(u)
    policy = squashed(mean, scale)
    spread = TanhGaussian(wide(policy.base, len(a)), policy.low, policy.high)
    log_density = np.asarray(spread.log_prob(a), np.float64)
    mass = np.exp(log_density) * 2.0 * (1.0 / np.cosh(np.asarray(u, np.float64)[:, 0])) ** 2 * width
    np.testing.assert_allclose(mass.sum(), 1.0, atol=2e-3)
    np.testing.assert_allclose(-(mass * log_density).sum(), policy.entropy(), atol=5e-3)


@given(means, scales, means, scales)
def test_kls_are_integrals(mean, scale, other_mean, other_scale):
    p, q = gaussian(mean, scale), gaussian(other_mean, other_scale)
    shifted = gaussian(other_mean, scale)
    x, width = grid(mean - 10 * scale, mean + 10 * scale)

    def integral(q):
        log_p, log_q = (np.asarray(wide(d, len(x)).log_prob(x), np.float64) for d in (p, q))
        return (np.exp(log_p) * (log_p - log_q)).sum() * width

    # The mean part moves the mean alone, the covariance part the scale alone.
    np.testing.assert_allclose(p.kl(q)["mean"], integral(shifted), rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(p.kl(q)["covariance"], integral(gaussian(mean, other_scale)), rtol=2e-3, atol=1e-4)
    assert p.kl(q).keys() == {"mean", "covariance"}
    again = squashed(mean, scale).kl(squashed(other_mean, other_scale))
    jax.tree.map(np.testing.assert_array_equal, again, p.kl(q))


def test_categorical_by_hand():
    p = Categorical.of_logits(jnp.log(jnp.array([[0.5, 0.25, 0.25]])) + 7.0)
    q = Categorical.of_logits(jnp.log(jnp.array([[0.25, 0.5, 0.25]])))
    # 1.5 log 2; KL = 0.5 log 2 - 0.25 log 2.
    np.testing.assert_allclose(p.entropy(), [1.5 * np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(p.kl(q)["kl"], [0.25 * np.log(2)], rtol=1e-5)
    np.testing.assert_allclose(p.log_prob(jnp.array([1])), [np.log(0.25)], rtol=1e-6)
    assert p.mode() == 0
    assert p.kl(q).keys() == {"kl"}


@pytest.mark.parametrize(
    "policy",
    [
        wide(gaussian(0.3, 0.7), 20000),
        TanhGaussian(wide(gaussian(0.3, 0.7), 20000), jnp.array([-1.0]), jnp.array([3.0])),
        Categorical(jnp.log(jnp.tile(jnp.array([[0.6, 0.3, 0.1]]), (20000, 1)))),
    ],
    ids=["gaussian", "tanh_gaussian", "categorical"],
)
def test_the_mean_surprise_of_samples_is_the_entropy(policy):
    surprise = -policy.log_prob(policy.sample(jax.random.key(0)))
    error = 4 * surprise.std() / np.sqrt(surprise.size)
    assert abs(surprise.mean() - policy.entropy().mean()) < error


def test_squashed_samples_stay_inside_and_have_finite_log_probs_however_far_u_is():
    policy = TanhGaussian(wide(gaussian(30.0, 1.0), 5), jnp.array([-1.0]), jnp.array([3.0]))
    action = policy.sample(jax.random.key(0))
    assert (action <= 3.0).all()
    gradient = jax.grad(lambda mean: policy._replace(base=policy.base._replace(mean=mean)).log_prob(action).sum())
    assert np.isfinite(policy.log_prob(action)).all()
    assert np.isfinite(gradient(policy.base.mean)).all()


@pytest.mark.parametrize(
    "head",
    [CategoricalHead(3), GaussianHead(2), GaussianHead(2, by_state=False, mean_map=jnp.tanh), TanhGaussianHead(2)],
    ids=["categorical", "gaussian", "one_scale", "tanh_gaussian"],
)
def test_a_fresh_policy_prefers_nothing(head):
    policy = jax.jit(lambda key: head.apply(head.init(key, FEATURES), FEATURES))(jax.random.key(0))
    assert policy.entropy().shape == policy.log_prob(policy.mode()).shape == (2, 3)
    if isinstance(policy, Categorical):
        np.testing.assert_allclose(policy.entropy(), np.log(3), atol=1e-3)
    else:
        base = getattr(policy, "base", policy)
        np.testing.assert_allclose(base.mean, 0.0, atol=0.05)
        np.testing.assert_allclose(base.scale, 1.0, atol=0.05)


def test_scales_and_bounds_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="not above minimum_scale"):
        GaussianHead(2, initial_scale=0.1, minimum_scale=0.2)
    with pytest.raises(ValueError, match="give finite bounds"):
        TanhGaussianHead(1, low=-np.inf)
