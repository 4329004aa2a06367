"""Returns against their definitions as sums, and against each other at the ends of their ranges."""

import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.numerics import gae, lambda_returns, n_step_returns, unroll_returns

rng = np.random.default_rng(0)
REWARDS = jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)
DISCOUNTS = jnp.asarray(0.9 * (rng.random((6, 3)) < 0.8), jnp.float32)
VALUES = jnp.asarray(rng.normal(size=(7, 3)), jnp.float32)


def definition(t, n):
    """sum of discounted rewards from t over n steps (at most to the end), then the value."""
    total, discount = 0.0, 1.0
    end = min(t + n, 6)
    for step in range(t, end):
        total = total + discount * REWARDS[step]
        discount = discount * DISCOUNTS[step]
    return total + discount * VALUES[end]


@pytest.mark.parametrize("n", [1, 3, 6, 10])
def test_n_step(n):
    expected = jnp.stack([definition(t, n) for t in range(6)])
    np.testing.assert_allclose(n_step_returns(REWARDS, DISCOUNTS, VALUES, n), expected, rtol=1e-5, atol=1e-6)


def test_unroll_returns_bootstrap_from_the_last_state():
    expected = jnp.stack([definition(t, 6 - t) for t in range(6)])
    np.testing.assert_allclose(unroll_returns(REWARDS, DISCOUNTS, VALUES), expected, rtol=1e-5, atol=1e-6)
    single = unroll_returns(REWARDS[:, 0], DISCOUNTS[:, 0], VALUES[:, 0])
    np.testing.assert_allclose(single, expected[:, 0], rtol=1e-5, atol=1e-6)


def test_lambda_returns_at_the_ends():
    one_step = n_step_returns(REWARDS, DISCOUNTS, VALUES, 1)
    np.testing.assert_allclose(lambda_returns(REWARDS, DISCOUNTS, VALUES, 0.0), one_step, rtol=1e-5)
    whole = unroll_returns(REWARDS, DISCOUNTS, VALUES)
    np.testing.assert_allclose(lambda_returns(REWARDS, DISCOUNTS, VALUES, 1.0), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_gae_is_the_lambda_return_minus_the_value(lam):
    expected = lambda_returns(REWARDS, DISCOUNTS, VALUES, lam) - VALUES[:-1]
    np.testing.assert_allclose(gae(REWARDS, DISCOUNTS, VALUES, lam), expected, rtol=1e-5, atol=1e-6)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="one step more"):
        gae(REWARDS, DISCOUNTS, VALUES[:-1], 0.9)
    with pytest.raises(ValueError, match="at least one step"):
        n_step_returns(REWARDS, DISCOUNTS, VALUES, 0)
