"""Masked reductions and statistics: values, and gradients that stay finite where everything is masked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempi_jax.numerics import centre, reductions, standardize, telling, variance

ROWS = jnp.array([[1.0, -2.0, jnp.inf], [3.0, 0.5, jnp.nan], [9.0, 9.0, 9.0]])
MASK = jnp.array([[True, True, False], [True, True, False], [False, False, False]])


def test_values_ignore_what_is_masked():
    np.testing.assert_allclose(reductions.sum(ROWS, where=MASK), 2.5)
    np.testing.assert_allclose(reductions.mean(ROWS, where=MASK, axis=-1), [-0.5, 1.75, 0.0])
    np.testing.assert_allclose(reductions.max(ROWS, where=MASK, axis=-1), [1.0, 3.0, -np.inf])
    np.testing.assert_allclose(reductions.min(ROWS, where=MASK, axis=-1), [-2.0, 0.5, np.inf])
    np.testing.assert_array_equal(reductions.count(MASK, axis=-1), [2, 2, 0])
    np.testing.assert_allclose(reductions.mean(jnp.array([1.0, 3.0])), 2.0)


@given(st.integers(0, 50), st.sampled_from([1e-3, 1.0, 1e3, 1e30]))
def test_logsumexp_against_float64(seed, scale):
    rng = np.random.default_rng(seed)
    x = (scale * rng.normal(size=(4, 8))).astype(np.float32)
    x[0, 0], x[1] = -np.inf, -np.inf
    mask = rng.random((4, 8)) < 0.7
    mask[3] = False
    with np.errstate(divide="ignore"):
        expected = np.logaddexp.reduce(np.where(mask, x, -np.inf).astype(np.float64), axis=-1)
    found = reductions.logsumexp(jnp.asarray(x), where=jnp.asarray(mask), axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_logsumexp_gradient_is_a_softmax_and_never_nan():
    x = jnp.array([[0.0, -jnp.inf, 1.0], [-jnp.inf, -jnp.inf, -jnp.inf]])
    gradient = jax.grad(lambda x: jnp.sum(jnp.exp(reductions.logsumexp(x, axis=-1))))(x)
    np.testing.assert_allclose(gradient, [[1.0, 0.0, np.e], [0.0, 0.0, 0.0]], rtol=1e-6)


def test_standardize():
    values = jnp.array([1.0, 3.0, 100.0])
    mask = jnp.array([True, True, False])
    np.testing.assert_allclose(centre(values, where=mask), [-1.0, 1.0, 0.0])
    np.testing.assert_allclose(variance(values, where=mask), 1.0)
    np.testing.assert_allclose(standardize(values, where=mask), [-1.0, 1.0, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(standardize(jnp.ones((2, 3)), axis=-1), np.zeros((2, 3)))


def test_what_tells_something():
    values = jnp.array([[1.0, 1.0, 5.0], [1.0, 2.0, 5.0], [1.0, 2.0, 3.0]])
    mask = jnp.array([[True, True, False], [True, True, False], [False, False, False]])
    expected = [[False] * 3, [True, True, False], [False] * 3]
    np.testing.assert_array_equal(telling(values, where=mask, axis=-1), expected)
    np.testing.assert_array_equal(telling(values, where=mask), mask)
    assert not np.any(telling(jnp.array([0.0, -0.0])))


@pytest.mark.parametrize("value", [0.1, 1e-3, 1 / 3, 1e8 / 3])
@pytest.mark.parametrize("size", [3, 6, 7, 100])
def test_equal_values_are_centred_without_rounding(value, size):
    # The mean of six 0.1 is not 0.1 in float32, and z-scores would make +-0.4 of the difference.
    values = jnp.full((2, size), value, jnp.float32)
    for function in (centre, standardize):
        for axis in (None, -1):
            np.testing.assert_array_equal(jax.jit(function, static_argnames="axis")(values, axis=axis), 0.0)
