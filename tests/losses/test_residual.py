"""VIREL's pieces by hand, with padding, without error, and where they mean nothing; tests/identities has the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import losses

VALUES = jnp.array([[1.0, 0.0, -1.0], [0.5, 0.5, 2.0]])
LOG_POLICY = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]))


def test_temperature_by_hand():
    # Residuals 1, -2: (1 + 4) / 2, and with p = 1, c = 2: 2 (1 + 2) / 2.
    residuals = jnp.array([1.0, -2.0])
    np.testing.assert_allclose(losses.residual_temperature(residuals), 2.5, rtol=1e-6)
    np.testing.assert_allclose(losses.residual_temperature(residuals, 2.0, 1.0), 3.0, rtol=1e-6)
    padded, where = jnp.append(residuals, jnp.nan), jnp.array([True, True, False])
    value, slope = jax.value_and_grad(losses.residual_temperature)(padded, where=where)
    np.testing.assert_allclose(value, 2.5, rtol=1e-6)
    # d mean delta^2 = 2 delta / 2.
    np.testing.assert_allclose(slope, [1.0, -2.0, 0.0], rtol=1e-6)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 4.0])
def test_a_critic_without_error_keeps_a_temperature_and_a_gradient(p):
    value, slope = jax.value_and_grad(lambda x: losses.residual_temperature(x, 1.0, p))(jnp.zeros(3))
    assert value > 0
    assert np.all(np.isfinite(slope))
    assert np.all(np.isfinite(losses.boltzmann_log_policy(VALUES, value)))


def test_bellman_residuals_by_hand():
    # r + gamma sum pi Q' - Q: sum pi Q' = 0.25 and 1.4; 1 + 0.9 * 0.25 - 2 = -0.775, and 1 - 2 at an end.
    found = losses.bellman_residuals(jnp.array([2.0, 2.0]), jnp.ones(2), jnp.array([0.9, 0.0]), VALUES, LOG_POLICY)
    np.testing.assert_allclose(found, [-0.775, -1.0], rtol=1e-6)


def test_elbo_by_hand():
    # sum pi Q = 0.25, 1.4; H = 1.039721, 0.950271; epsilon 1/2: (0.5 + 1.039721 + 2.8 + 0.950271) / 2.
    np.testing.assert_allclose(losses.virel_elbo(VALUES, LOG_POLICY, 0.5), 2.644996, rtol=1e-5)
    # d(s) = (1/4, 3/4): 1.539721 / 4 + 3.750271 * 3 / 4.
    weighted = losses.virel_elbo(VALUES, LOG_POLICY, 0.5, state_probs=jnp.array([0.25, 0.75]))
    np.testing.assert_allclose(weighted, 3.197634, rtol=1e-5)


def test_actions_that_are_never_taken_may_have_any_value():
    values = jnp.array([[1.0, jnp.nan], [2.0, -jnp.inf]])
    log_policy = jnp.array([[0.0, -jnp.inf], [0.0, -jnp.inf]])
    value, slope = jax.value_and_grad(losses.virel_elbo)(values, log_policy, 1.0)
    np.testing.assert_allclose(value, 1.5, rtol=1e-6)
    np.testing.assert_allclose(slope, [[0.5, 0.0], [0.5, 0.0]], rtol=1e-6)
    assert np.all(np.isfinite(jax.grad(losses.virel_actor_loss, argnums=1)(values, log_policy, 1.0)))


def test_padding_may_hold_anything():
    where = jnp.array([True, True, False])
    junk = jnp.full((1, 3), jnp.nan)
    values, log_policy = jnp.concatenate([VALUES, junk]), jnp.concatenate([LOG_POLICY, junk])
    for loss in (losses.virel_elbo, losses.virel_actor_loss):
        slopes = jax.grad(loss, argnums=(0, 1))(values, log_policy, 0.5, where=where)
        expected = jax.grad(loss, argnums=(0, 1))(VALUES, LOG_POLICY, 0.5)
        for slope, alone in zip(slopes, expected, strict=True):
            np.testing.assert_allclose(slope, np.concatenate([alone, np.zeros((1, 3))]), rtol=1e-6, atol=1e-8)
    line = jnp.array([1.0, -2.0, jnp.nan])
    slope = jax.grad(losses.virel_sampled_actor_loss)(line, line, line, 0.5, where=where)
    np.testing.assert_allclose(slope, [-0.5, 1.0, 0.0], rtol=1e-6)
    slope = jax.grad(losses.virel_critic_loss)(line, jnp.float32(0.5), where=where)
    np.testing.assert_allclose(slope, [-0.25, -0.25, 0.0], rtol=1e-6)


def test_the_actor_sees_no_critic():
    slopes = jax.grad(losses.virel_actor_loss, argnums=(0, 2))(VALUES, LOG_POLICY, jnp.float32(0.5))
    assert not any(np.any(slope) for slope in slopes)
    line = jnp.array([1.0, -2.0])
    slopes = jax.grad(losses.virel_sampled_actor_loss, argnums=(1, 3))(line, line, line, jnp.float32(0.5))
    assert not any(np.any(slope) for slope in slopes)


def test_what_means_nothing_is_named():
    with pytest.raises(ValueError, match=r"residual_temperature: c is 0\.0"):
        losses.residual_temperature(jnp.zeros(2), 0.0)
    with pytest.raises(ValueError, match="p must be at least 1"):
        losses.residual_temperature(jnp.zeros(2), 1.0, 0.5)
