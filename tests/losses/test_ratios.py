"""Log-ratios to a policy that is held fixed, their sums and estimates of the KL."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import losses, numerics

NEW, OLD = jnp.array([[-1.0, -2.0, jnp.nan], [-0.5, -jnp.inf, -3.0]]), jnp.array([[-1.5, -1.0, 0.0], [-0.5, 0.0, -1.0]])
WHERE = jnp.array([[True, True, False], [True, False, True]])


def test_by_hand():
    # 0.5, -1 and, in the second row, 0, -2; what is masked counts nothing.
    np.testing.assert_allclose(losses.log_ratios(NEW, OLD, where=WHERE), [[0.5, -1.0, 0.0], [0.0, 0.0, -2.0]])
    np.testing.assert_allclose(losses.sequence_log_ratios(NEW, OLD, where=WHERE), [-0.5, -2.0])
    # k3 = e^-rho - 1 + rho.
    expected = [[np.exp(-0.5) - 0.5, np.e - 2.0, 0.0], [0.0, 0.0, np.exp(2.0) - 3.0]]
    np.testing.assert_allclose(losses.kl_terms(NEW, OLD, where=WHERE), expected, rtol=1e-5, atol=1e-7)
    k1 = losses.kl_terms(NEW, OLD, numerics.k1, where=WHERE)
    np.testing.assert_allclose(k1, losses.log_ratios(NEW, OLD, where=WHERE))


def test_the_base_is_fixed_and_padding_has_no_gradient():
    slopes = jax.grad(lambda *x: jnp.sum(losses.kl_terms(*x, numerics.k2, where=WHERE)), argnums=(0, 1))(NEW, OLD)
    # d (rho^2 / 2) = rho.
    np.testing.assert_allclose(slopes[0], [[0.5, -1.0, 0.0], [0.0, 0.0, -2.0]])
    assert not np.any(slopes[1])


def test_shapes_that_disagree_are_named():
    with pytest.raises(ValueError, match=r"log_ratios: base_log_probs has shape \(3,\), log_probs \(2, 3\)"):
        inspect.unwrap(losses.log_ratios)(NEW, OLD[0])
