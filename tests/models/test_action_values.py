"""Q of several actions of a state: each by itself, within bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.models import ContinuousValues, DiscreteValues, MLPTorso


def test_discrete_actions_are_looked_up():
    network = DiscreteValues(MLPTorso((5,)), 3)
    seen = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)), jnp.float32)
    actions = jnp.asarray([[0, 1, 2], [2, 2, 0], [1, 0, 1], [2, 1, 0]])
    params = network.init(jax.random.key(0), seen, actions)
    everything = network.apply(params, seen, jnp.broadcast_to(jnp.arange(3), (4, 3)))
    found = network.apply(params, seen, actions)
    np.testing.assert_array_equal(found, np.take_along_axis(np.asarray(everything), np.asarray(actions), axis=1))
    assert np.all(np.ptp(everything, axis=1) > 0)


@pytest.mark.parametrize(("low", "high"), [(-2.0, 2.0), ((-2.0, 0.0), (2.0, 4.0))])
def test_actions_outside_are_those_nearest_inside(low, high):
    network = ContinuousValues(MLPTorso((5,), jnp.tanh), low, high)
    seen = jnp.ones((1, 3))
    inside = jnp.asarray([[[2.0, high if isinstance(high, float) else high[1]], [0.5, 1.0]]])
    outside = jnp.asarray([[[7.0, 9.0], [0.5, 1.0]]])
    params = network.init(jax.random.key(0), seen, inside)
    values = network.apply(params, seen, inside)
    np.testing.assert_allclose(network.apply(params, seen, outside), values, rtol=1e-6)
    assert values.shape == (1, 2)
    assert values[0, 0] != values[0, 1]
    # Bounds are -1 and 1 to the network: the same kernel, by hand, on scaled inputs.
    kernels = jax.tree.map(np.asarray, params["params"])
    middle, half = (np.asarray(low) + high) / 2, (np.asarray(high) - low) / 2
    both = np.concatenate([np.ones((1, 2, 3)), (np.asarray(inside) - middle) / half], axis=-1)
    hidden = np.tanh(both @ kernels["torso"]["layers_0"]["kernel"] + kernels["torso"]["layers_0"]["bias"])
    expected = hidden @ kernels["value"]["kernel"] + kernels["value"]["bias"]
    np.testing.assert_allclose(values, expected[..., 0], rtol=1e-5)


def test_without_bounds_actions_are_read_as_they_are():
    network = ContinuousValues(MLPTorso((5,), jnp.tanh))
    seen, actions = jnp.zeros((1, 2)), jnp.asarray([[[3.0], [30.0]]])
    values = network.apply(network.init(jax.random.key(0), seen, actions), seen, actions)
    assert np.all(np.isfinite(values))
    assert values[0, 0] != values[0, 1]
