"""One iteration as a pure function: over seeds, over iterations, and with units left out."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.contracts import Target
from gempi_jax.methods import Critic, awr, vmpo, with_critic
from gempi_jax.numerics.advantages import gae
from gempi_jax.training.learn import Passes, learn, select_units, update_order
from tests.methods.test_contract import OPTIMIZERS, start
from tests.methods.worlds import make_data, make_samples, world

PASSES = Passes(updates_per_epoch=2, num_epochs=2)


def test_seeds_vmap_and_iterations_scan():
    method, data = vmpo(), make_data()
    samples = make_samples(method, data)

    def run(key):
        def iteration(state, key):
            return learn(method, world(method), OPTIMIZERS, state, data, samples, key, PASSES)

        return jax.lax.scan(iteration, start(method), jax.random.split(key, 2))[0].params

    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(run))(keys)
    alone = jax.jit(run)(keys[1])
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[1], together), alone, rtol=2e-5, atol=1e-6)
    assert not np.allclose(together["policy"]["w"][0], together["policy"]["w"][1])


def test_the_order_goes_over_every_unit_once_an_epoch():
    order = update_order(jax.random.key(0), jnp.arange(3, 11), Passes(updates_per_epoch=4, num_epochs=3))
    assert order.shape == (12, 2)
    epochs = np.asarray(order).reshape(3, 8)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(3, 11), (3, 1)))
    assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize("critic", [False, True])
def test_units_that_are_left_out(critic):
    method = with_critic(awr(), Critic(gae(1.0))) if critic else awr()
    weights = jnp.array([[0.1, 0.0], [0.3, 0.1], [0.0, 0.0], [0.2, 0.3]])
    target = Target({"weights": weights}, jnp.zeros(()), {}, importance=weights.sum(1))
    chosen = select_units(method, target, 4, 2)
    # The heaviest are units 3 (0.5) and 1 (0.4) of 1.0 in all.
    np.testing.assert_allclose(chosen.kept_mass.mean(), 0.9, rtol=1e-6)
    if not critic:
        assert chosen.units.tolist() == [3, 1]
        return
    # A critic is fitted on all four, and the two others have no weight.
    assert sorted(chosen.units.tolist()) == [0, 1, 2, 3]
    np.testing.assert_allclose(chosen.target.weights, weights * jnp.array([0.0, 1.0, 0.0, 1.0])[:, None])
