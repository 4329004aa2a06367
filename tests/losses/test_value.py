"""The critics' regression: V-MPO's half, PPO's whole, targets that are numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from gempi_jax import losses, numerics

VALUES, TARGETS = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, 2.0, 5.0])


def test_by_hand():
    # Errors 1, 0, -2: mean of squares 5/3; L_V is half of it, L^VF all of it.
    np.testing.assert_allclose(losses.value_loss(VALUES, TARGETS), 5 / 6, rtol=1e-6)
    np.testing.assert_allclose(losses.value_loss(VALUES, TARGETS, coefficient=1.0), 5 / 3, rtol=1e-6)
    gradient = jax.grad(losses.value_loss)(VALUES, TARGETS)
    np.testing.assert_allclose(gradient, np.array([1.0, 0.0, -2.0]) / 3, rtol=1e-6)


def test_a_target_that_bootstraps_from_the_critic_is_a_number():
    rewards, discounts = jnp.ones(3), jnp.full((3,), 0.9)

    def loss(values):
        return losses.value_loss(values[:-1], numerics.unroll_returns(rewards, discounts, values))

    values = jnp.array([0.5, 1.0, -1.0, 2.0])
    targets = numerics.unroll_returns(rewards, discounts, values)
    np.testing.assert_allclose(jax.grad(loss)(values), np.append((values[:-1] - targets) / 3, 0.0), rtol=1e-5)


def test_padding_may_hold_anything():
    where = jnp.array([True, True, True, False])
    padded = [jnp.append(x, jnp.nan) for x in (VALUES, TARGETS)]
    value, gradient = jax.value_and_grad(losses.value_loss)(*padded, where=where)
    np.testing.assert_allclose(value, 5 / 6, rtol=1e-6)
    np.testing.assert_allclose(gradient, np.array([1.0, 0.0, -2.0, 0.0]) / 3, rtol=1e-6)
