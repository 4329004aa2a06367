"""The price of actions outside their bounds: a second target beside the first, and only where something is outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import methods
from gempi_jax.contracts import Samples

S, K, EPSILON = 4, 5, 0.05
generator = np.random.default_rng(0)
Q = jnp.asarray(generator.normal(size=(S, K)), jnp.float32)
LOG_PROBS = jnp.asarray(generator.normal(size=(S, K)), jnp.float32)
# Nothing is outside in state 0, and all actions are equally far in state 1.
COSTS = jnp.asarray([[0.0] * 5, [-2.0] * 5, [0.0, -1.0, -3.0, 0.0, 0.0], [-0.5, 0.0, 0.0, 0.0, -4.0]])


def samples(costs=COSTS):
    return Samples(Q, LOG_PROBS, LOG_PROBS[None], rewards=Q, bounds_costs=costs)


PRICED = methods.mpo(epsilon_bounds=EPSILON)
WEIGHTS = jax.jit(lambda costs: (PRICED.e_step({}, samples(costs)), methods.mpo().e_step({}, samples())))


def test_weights_are_those_of_both_targets():
    both, own = WEIGHTS(COSTS)
    extra = np.asarray(both.weights, np.float64) - np.asarray(own.weights)
    np.testing.assert_allclose(own.weights.sum(axis=1), 1 / S, rtol=1e-5)
    np.testing.assert_allclose(extra[:2], 0.0, atol=1e-7)
    # q = softmax(cost / eta) of K samples of pi_t, a share of 1/S each, with the mean KL to uniform at the budget.
    eta = float(both.metrics["estep/bounds/temperature"].sum)
    tilted = np.exp(np.asarray(COSTS[2:], np.float64) / eta)
    expected = tilted / tilted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(extra[2:], expected / S, rtol=1e-4, atol=1e-7)
    spent = np.sum(expected * np.log(expected * K), axis=1).mean()
    np.testing.assert_allclose(spent, EPSILON, rtol=1e-3)
    np.testing.assert_allclose(both.metrics["estep/bounds/flat_groups"].sum, 0.5)


def test_inside_it_is_the_method_alone():
    both, own = WEIGHTS(jnp.zeros_like(COSTS))
    np.testing.assert_array_equal(both.weights, own.weights)
    np.testing.assert_array_equal(both.signal, own.signal)


def test_it_is_asked_for_and_refused_elsewhere():
    assert PRICED.needs.bounds
    assert not methods.mpo().needs.bounds
    with pytest.raises(ValueError, match="by group with the anchor 'old'"):
        methods.with_bounds(methods.vmpo())
    with pytest.raises(ValueError, match="bounds_costs is None"):
        jax.eval_shape(lambda: PRICED.e_step({}, samples(None)))
