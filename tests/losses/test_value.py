"""The critics' regression: V-MPO's half, PPO's whole and PPO's clip, targets that are numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import losses, numerics

VALUES, TARGETS = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, 2.0, 5.0])


def test_by_hand():
    # Errors 1, 0, -2: L_V has half their squares as terms, L^VF all of them.
    np.testing.assert_allclose(losses.value_loss(VALUES, TARGETS), [0.5, 0.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(losses.value_loss(VALUES, TARGETS, coefficient=1.0), [1.0, 0.0, 4.0], rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(losses.value_loss(x, TARGETS)))(VALUES)
    np.testing.assert_allclose(gradient, [1.0, 0.0, -2.0], rtol=1e-6)


def test_a_target_that_bootstraps_from_the_critic_is_a_number():
    rewards, discounts = jnp.ones(3), jnp.full((3,), 0.9)

    def returns(values):
        return numerics.unroll_returns()(rewards, discounts, rewards > 0, values[:-1], values[1:])[1]

    def loss(values):
        return jnp.sum(losses.value_loss(values[:-1], returns(values)))

    values = jnp.array([0.5, 1.0, -1.0, 2.0])
    targets = returns(values)
    np.testing.assert_allclose(jax.grad(loss)(values), np.append(values[:-1] - targets, 0.0), rtol=1e-5)


# V_old = 1, G = 3, eps = 0.2: V = 1.1 (inside), 1.5 (moved towards G), 0.5 (moved away), 3.5 (beyond G).
MOVED, OLD, GOAL = jnp.array([1.1, 1.5, 0.5, 3.5]), jnp.ones(4), jnp.full((4,), 3.0)


def test_value_clip_by_hand():
    # Errors -1.9, -1.5, -2.5, 0.5; those of the clipped V -1.9, -1.8, -2.2, -1.8: the larger square counts.
    found = losses.clipped_value_loss(MOVED, OLD, GOAL, 0.2)
    np.testing.assert_allclose(found, 0.5 * np.square([1.9, 1.8, 2.5, 1.8]), rtol=1e-6)
    # What has moved towards G by more than eps stops; what has moved away comes back at full speed.
    gradient = jax.grad(lambda *x: jnp.sum(losses.clipped_value_loss(*x, 0.2)), argnums=(0, 1, 2))(MOVED, OLD, GOAL)
    np.testing.assert_allclose(gradient[0], [-1.9, 0.0, -2.5, 0.0], rtol=1e-6)
    assert not np.any(gradient[1:])


def test_a_wide_value_clip_is_none():
    found = losses.clipped_value_loss(MOVED, OLD, GOAL, 10.0, coefficient=1.0)
    np.testing.assert_allclose(found, losses.value_loss(MOVED, GOAL, coefficient=1.0), rtol=1e-6)
    with pytest.raises(ValueError, match=r"clipped_value_loss: epsilon is 0\.0: in units of return"):
        losses.clipped_value_loss(MOVED, OLD, GOAL, 0.0)


def test_padding_may_hold_anything():
    where = jnp.array([True, True, True, False])
    values, targets = (jnp.append(x, jnp.nan) for x in (VALUES, TARGETS))

    def total(values):
        plain = losses.value_loss(values, targets, where=where)
        return jnp.sum(plain) + jnp.sum(losses.clipped_value_loss(values, targets, targets, 0.2, where=where))

    # The clip is at G itself: it binds nowhere, and both are the same.
    value, gradient = jax.value_and_grad(total)(values)
    np.testing.assert_allclose(value, 5.0, rtol=1e-6)
    np.testing.assert_allclose(gradient, [2.0, 0.0, -4.0, 0.0], rtol=1e-6)
