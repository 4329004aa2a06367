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
LOG_RATIOS = jnp.log(RATIOS)


def total(log_ratios, advantages, epsilon, **options):
    """The sum of the surrogate's terms."""
    return jnp.sum(losses.clipped_surrogate(log_ratios, advantages, epsilon, **options))


def test_terms_and_gradient_by_hand():
    # -min(rA, clip(r)A): -min(3, 2.4), -min(1, 1.6), -min(-3, -2.4), -min(-1, -1.6), -1.1.
    found = losses.clipped_surrogate(LOG_RATIOS, ADVANTAGES, 0.2)
    np.testing.assert_allclose(found, [-2.4, -1.0, 3.0, 1.6, -1.1], rtol=1e-5)
    # d(rA) = rA where the ratio is not clipped, 0 where it is.
    gradient = jax.grad(total)(LOG_RATIOS, ADVANTAGES, 0.2)
    np.testing.assert_allclose(gradient, [0.0, -1.0, 3.0, 0.0, -1.1], rtol=1e-5)


def test_two_sides_of_the_clip_by_hand():
    # At (0.6, 0.4): 1.5 becomes 1.4 where A > 0; 0.5 stays above 0.4.
    found = losses.clipped_surrogate(LOG_RATIOS, ADVANTAGES, (0.6, 0.4))
    np.testing.assert_allclose(found, [-2.8, -1.0, 3.0, 1.0, -1.1], rtol=1e-5)
    low, high = losses.clip_indicators(LOG_RATIOS, ADVANTAGES, (0.6, 0.4))
    np.testing.assert_array_equal(high, [True, False, False, False, False])
    assert not np.any(low)


def test_clipped_is_what_has_no_gradient():
    # 0.5 with A > 0 and 1.5 with A < 0 are outside [0.8, 1.2], but nothing stops them from coming back.
    low, high = losses.clip_indicators(LOG_RATIOS, ADVANTAGES, 0.2)
    np.testing.assert_array_equal(low, [False, False, False, True, False])
    np.testing.assert_array_equal(high, [True, False, False, False, False])
    np.testing.assert_array_equal(low | high, jax.grad(total)(LOG_RATIOS, ADVANTAGES, 0.2) == 0)
    where = jnp.array([False, True, True, True, True])
    assert not np.any(losses.clip_indicators(LOG_RATIOS, ADVANTAGES, 0.2, where=where).high)


@given(st.integers(0, 1000), st.sampled_from([0.1, 0.2, 0.9]))
def test_is_the_minimum_of_the_document(seed, epsilon):
    rng = np.random.default_rng(seed)
    new, old, advantages = rng.normal(size=(3, 64)).astype(np.float32)
    ratios = np.exp(new.astype(np.float64) - old)
    expected = -np.minimum(ratios * advantages, np.clip(ratios, 1 - epsilon, 1 + epsilon) * advantages)
    found = losses.clipped_surrogate(losses.log_ratios(*map(jnp.asarray, (new, old))), jnp.asarray(advantages), epsilon)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_advantage_of_the_example_is_that_of_each_of_its_terms():
    log_ratios = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
    advantages = jnp.array([[1.0, -1.0, 0.5], [2.0, 0.0, -3.0]])
    repeated = jnp.broadcast_to(advantages[..., None], (2, 3, 4))
    found = losses.clipped_surrogate(log_ratios, advantages, 0.2)
    np.testing.assert_array_equal(found, losses.clipped_surrogate(log_ratios, repeated, 0.2))


def test_nothing_flows_into_advantages():
    assert not np.any(jax.grad(total, argnums=1)(LOG_RATIOS, ADVANTAGES, 0.2))


def test_padding_may_hold_anything():
    where = jnp.array([True, True, True, True, True, False, False])
    padded = [jnp.concatenate([x, jnp.array([jnp.nan, -jnp.inf])]) for x in (LOG_RATIOS, ADVANTAGES)]
    alone = losses.clipped_surrogate(LOG_RATIOS, ADVANTAGES, 0.2)
    found = losses.clipped_surrogate(*padded, 0.2, where=where)
    np.testing.assert_allclose(found, np.append(alone, [0.0, 0.0]), rtol=1e-6)
    gradient = jax.grad(total)(*padded, 0.2, where=where)
    expected = np.append(jax.grad(total)(LOG_RATIOS, ADVANTAGES, 0.2), [0.0, 0.0])
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_a_clipped_ratio_that_overflows_has_gradient_zero():
    # A sequence 200 nats likelier than under pi_old: exp(200) is infinite in float32, 1 + eps is not.
    log_ratios, advantages = jnp.array([200.0, -200.0]), jnp.array([1.0, -1.0])
    np.testing.assert_allclose(losses.clipped_surrogate(log_ratios, advantages, 0.2), [-1.2, 0.8], rtol=1e-5)
    np.testing.assert_array_equal(jax.grad(total)(log_ratios, advantages, 0.2), [0.0, 0.0])


def test_the_surrogate_of_a_sequence_has_the_product_of_its_ratios():
    rng = np.random.default_rng(0)
    new, old = (jnp.asarray(-rng.random((4, 3)), jnp.float32) for _ in range(2))
    where = jnp.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    log_ratios = losses.sequence_log_ratios(new, old, where=where)
    ratios = np.prod(np.where(where, np.exp(new - old), 1.0), axis=1)
    # L^CLIP on r_seq, as min(r A, clip(r) A).
    advantages = jnp.array([1.0, -1.0, 2.0, 0.5])
    expected = -np.minimum(ratios * advantages, np.clip(ratios, 0.8, 1.2) * advantages)
    np.testing.assert_allclose(losses.clipped_surrogate(log_ratios, advantages, 0.2), expected, rtol=1e-5)


@pytest.mark.parametrize("epsilon", [0.0, 1.0, -0.2, float("nan"), (1.0, 0.2)])
def test_epsilon_outside_its_range_is_named(epsilon):
    with pytest.raises(ValueError, match=r"clipped_surrogate: epsilon.* must lie in \(0, 1\) .*, not"):
        losses.clipped_surrogate(LOG_RATIOS, ADVANTAGES, epsilon)
    with pytest.raises(ValueError, match="clip_indicators: epsilon"):
        losses.clip_indicators(LOG_RATIOS, ADVANTAGES, epsilon)


def test_an_upper_side_without_width_is_named():
    with pytest.raises(ValueError, match=r"rise above 1, must be positive .*, not 0\.0"):
        losses.clipped_surrogate(LOG_RATIOS, ADVANTAGES, (0.2, 0.0))


def test_shapes_that_disagree_are_named():
    # Without the shape checks of the test session, which users do not have.
    surrogate = inspect.unwrap(losses.clipped_surrogate)
    with pytest.raises(ValueError, match=r"advantages have shape \(5, 1\), log_ratios \(5,\); give one for each term"):
        surrogate(LOG_RATIOS, ADVANTAGES[:, None], 0.2)
