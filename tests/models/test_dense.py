"""The product behind every linear map: a rule of its own for its derivatives, which are those of the plain product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.models.dense import product

KEYS = jax.random.split(jax.random.key(0), 4)
ROWS, KERNEL = jax.random.normal(KEYS[0], (6, 3)), jax.random.normal(KEYS[1], (3, 5))
COTANGENT = jax.random.normal(KEYS[2], (6, 5))


def objective(multiply, rows, kernel):
    """A number whose second derivatives are not 0."""
    return (COTANGENT * jnp.tanh(multiply(rows, kernel))).sum()


def plain(rows, kernel):
    return jnp.dot(rows, kernel, preferred_element_type=jnp.float32)


def ours(rows, kernel):
    return product(rows, kernel, jnp.float32)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_in_both_operands(dtype):
    operands = ROWS.astype(dtype), KERNEL.astype(dtype)
    got, expected = (jax.grad(objective, (1, 2))(multiply, *operands) for multiply in (ours, plain))
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(one.astype(jnp.float32), other.astype(jnp.float32), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("transform", [jax.hessian, jax.jacfwd, jax.jacrev])
def test_forward_mode_and_second_derivatives(transform):
    for argument in (1, 2):
        got, expected = (transform(objective, argument)(multiply, ROWS, KERNEL) for multiply in (ours, plain))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_a_batch_of_kernels():
    kernels = jnp.stack([KERNEL, 2 * KERNEL])
    gradients = jax.vmap(jax.grad(lambda kernel: objective(ours, ROWS, kernel)))(kernels)
    expected = jax.vmap(jax.grad(lambda kernel: objective(plain, ROWS, kernel)))(kernels)
    np.testing.assert_allclose(gradients, expected, rtol=1e-6, atol=1e-6)


def test_a_gradient_multiplies_rows_with_columns():
    """No product of the gradient contracts the first axes of both operands, which is what the rule is for."""
    text = jax.jit(jax.grad(lambda rows, kernel: objective(ours, rows, kernel), (0, 1))).lower(ROWS, KERNEL).as_text()
    contracted = [line for line in text.splitlines() if "dot_general" in line]
    # The value, the gradient of the rows, and that of the kernel.
    assert len(contracted) == 3
    assert not [line for line in contracted if "contracting_dims = [0] x [0]" in line]
