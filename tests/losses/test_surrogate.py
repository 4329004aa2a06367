"""PPO's surrogate: values by hand, clipping that stops the gradient, ratios that overflow, padding."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempi_jax import losses

# Ratios 1.5, 0.5, 1.5, 0.5, 1.1 with advantages 2, 2, -2, -2, 1 at epsilon 0.2.
RATIOS = jnp.array([1.5, 0.5, 1.5, 0.5, 1.1])
ADVANTAGES = jnp.array([2.0, 2.0, -2.0, -2.0, 1.0])
OLD = jnp.array([-1.0, -2.0, -0.5, -3.0, -1.0])
NEW = OLD + jnp.log(RATIOS)


def test_value_and_gradient_by_hand():
    # min(rA, clip(r)A): min(3, 2.4), min(1, 1.6), min(-3, -2.4), min(-1, -1.6), 1.1 = 2.4 + 1 - 3 - 1.6 + 1.1 = -0.1.
    value, gradient = jax.value_and_grad(losses.clipped_surrogate)(NEW, OLD, ADVANTAGES, 0.2)
    np.testing.assert_allclose(value, 0.1 / 5, rtol=1e-5)
    # d(rA) = rA where the ratio is not clipped, 0 where it is.
    np.testing.assert_allclose(gradient, -np.array([0.0, 1.0, -3.0, 0.0, 1.1]) / 5, rtol=1e-5)


def test_clip_fraction_by_hand():
    # All but 1.1 leave [0.8, 1.2]; of the last three two do.
    np.testing.assert_allclose(losses.clip_fraction(NEW, OLD, 0.2), 0.8, rtol=1e-6)
    where = jnp.array([False, False, True, True, True])
    np.testing.assert_allclose(losses.clip_fraction(NEW, OLD, 0.2, where=where), 2 / 3, rtol=1e-6)
    assert not np.any(jax.grad(losses.clip_fraction)(NEW, OLD, 0.2))


@given(st.integers(0, 1000), st.sampled_from([0.1, 0.2, 0.9]))
def test_is_the_minimum_of_the_document(seed, epsilon):
    rng = np.random.default_rng(seed)
    new, old, advantages = rng.normal(size=(3, 64)).astype(np.float32)
    ratios = np.exp(new.astype(np.float64) - old)
    expected = -np.mean(np.minimum(ratios * advantages, np.clip(ratios, 1 - epsilon, 1 + epsilon) * advantages))
    found = losses.clipped_surrogate(*map(jnp.asarray, (new, old, advantages)), epsilon)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_nothing_flows_into_advantages_and_the_old_policy():
    gradients = jax.grad(losses.clipped_surrogate, argnums=(1, 2))(NEW, OLD, ADVANTAGES, 0.2)
    assert not any(np.any(gradient) for gradient in gradients)


def test_padding_may_hold_anything():
    where = jnp.array([True, True, True, True, True, False, False])
    padded = [jnp.concatenate([x, jnp.array([jnp.nan, -jnp.inf])]) for x in (NEW, OLD, ADVANTAGES)]
    value, gradient = jax.value_and_grad(losses.clipped_surrogate)(*padded, 0.2, where=where)
    alone, expected = jax.value_and_grad(losses.clipped_surrogate)(NEW, OLD, ADVANTAGES, 0.2)
    np.testing.assert_allclose(value, alone, rtol=1e-6)
    np.testing.assert_allclose(gradient, np.append(expected, [0.0, 0.0]), rtol=1e-6)
    np.testing.assert_allclose(losses.clip_fraction(*padded[:2], 0.2, where=where), 0.8, rtol=1e-6)


def test_a_clipped_ratio_that_overflows_has_gradient_zero():
    # A sequence 200 nats likelier than under pi_old: exp(200) is infinite in float32, 1 + eps is not.
    value, gradient = jax.value_and_grad(losses.clipped_surrogate)(
        jnp.array([0.0, -400.0]), jnp.array([-200.0, -200.0]), jnp.array([1.0, -1.0]), 0.2
    )
    np.testing.assert_allclose(value, -(1.2 - 0.8) / 2, rtol=1e-5)
    np.testing.assert_array_equal(gradient, [0.0, 0.0])


def test_sequence_ratio_is_the_product_and_its_surrogate_takes_sums():
    rng = np.random.default_rng(0)
    new, old = (jnp.asarray(-rng.random((4, 3)), jnp.float32) for _ in range(2))
    where = jnp.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    ratios = losses.sequence_ratio(new, old, where=where)
    np.testing.assert_allclose(ratios, np.prod(np.where(where, np.exp(new - old), 1.0), axis=1), rtol=1e-5)
    # L^CLIP on r_seq, as min(r A, clip(r) A), equals the surrogate on sums.
    advantages = jnp.array([1.0, -1.0, 2.0, 0.5])
    found = losses.clipped_surrogate(new.sum(-1, where=where), old.sum(-1, where=where), advantages, 0.2)
    clipped = jnp.clip(ratios, 0.8, 1.2)
    np.testing.assert_allclose(found, -jnp.mean(jnp.minimum(ratios * advantages, clipped * advantages)), rtol=1e-5)


@pytest.mark.parametrize("epsilon", [0.0, 1.0, -0.2, float("nan")])
def test_epsilon_outside_its_range_is_named(epsilon):
    with pytest.raises(ValueError, match=r"clipped_surrogate: epsilon.* must lie in \(0, 1\) .*, not"):
        losses.clipped_surrogate(NEW, OLD, ADVANTAGES, epsilon)
    with pytest.raises(ValueError, match="clip_fraction: epsilon"):
        losses.clip_fraction(NEW, OLD, epsilon)


def test_shapes_that_disagree_are_named():
    # Without the shape checks of the test session, which users do not have.
    surrogate = inspect.unwrap(losses.clipped_surrogate)
    with pytest.raises(ValueError, match=r"advantages has shape \(5, 1\), log_probs \(5,\); give one entry for each"):
        surrogate(NEW, OLD, ADVANTAGES[:, None], 0.2)
