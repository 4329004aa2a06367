"""The Bradley-Terry model, the reward model's loss, and the critics' regression."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gempi_jax import losses


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=4, max_size=4))
def test_bradley_terry_in_float64(gaps):
    found = np.asarray(losses.bradley_terry(jnp.asarray(gaps, jnp.float32)))
    np.testing.assert_allclose(found, -np.logaddexp(0.0, -np.asarray(gaps, np.float64)), rtol=1e-5, atol=1e-30)


def test_preferring_one_and_preferring_the_other_are_all_that_can_happen():
    gaps = jnp.array([0.0, 1.0, -3.0])
    total = jnp.exp(losses.bradley_terry(gaps)) + jnp.exp(losses.bradley_terry(-gaps))
    np.testing.assert_allclose(total, 1.0, rtol=1e-6)
    # (8): e^r1 / (e^r1 + e^r2) with rewards 2 and 1.
    np.testing.assert_allclose(jnp.exp(losses.bradley_terry(jnp.array(1.0))), np.e**2 / (np.e**2 + np.e), rtol=1e-6)


def test_reward_model_loss_and_gradient_by_hand():
    # sigma = 1/2 and 3/4: log 2 and log 4/3; the gradient is -(1 - sigma).
    gaps = jnp.array([0.0, np.log(3.0)], jnp.float32)
    np.testing.assert_allclose(losses.reward_model_loss(gaps), np.log([2, 4 / 3]), rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(losses.reward_model_loss(x)))(gaps)
    np.testing.assert_allclose(gradient, [-0.5, -0.25], rtol=1e-6)
    # Weights 1 and 3: log 2 and 3 log 4/3.
    weighted = losses.reward_model_loss(gaps, jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(weighted, [np.log(2), 3 * np.log(4 / 3)], rtol=1e-6)


def test_one_hot_weights_are_the_loss_of_the_assigned_pairs():
    gaps = jnp.array([0.3, -1.0, 2.0, jnp.nan])
    where = jnp.array([True, True, True, False])
    by_weights = losses.reward_model_loss(gaps, jnp.array([1.0, 0.0, 1.0, 1.0]), where=where)
    alone = losses.reward_model_loss(gaps[jnp.array([0, 2])])
    np.testing.assert_allclose(by_weights, [alone[0], 0.0, alone[1], 0.0], rtol=1e-6)


def test_what_has_no_weight_may_hold_anything_and_weights_are_numbers():
    gaps, weights = jnp.array([jnp.nan, 1.0]), jnp.array([0.0, 2.0])
    total = lambda *arrays: jnp.sum(losses.reward_model_loss(*arrays))  # noqa: E731
    value, gradient = jax.value_and_grad(total)(gaps, weights)
    np.testing.assert_allclose(value, 2 * np.log1p(np.exp(-1.0)), rtol=1e-6)
    assert np.all(np.isfinite(gradient))
    assert not np.any(jax.grad(total, argnums=1)(jnp.array([0.0, 1.0]), jnp.array([1.0, 2.0])))
    for nobody in (losses.reward_model_loss(gaps, jnp.zeros(2)), losses.reward_model_loss(gaps, where=gaps > 5)):
        np.testing.assert_array_equal(nobody, 0.0)
