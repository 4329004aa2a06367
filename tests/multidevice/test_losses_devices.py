"""One device and 8: jit over sharded arrays, shard_map and legacy pmap give the same losses, masks and gradients."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gempi_jax import losses

DEVICES, NUMBER = 8, 32
# Tiny arrays: compiling is all that these tests cost.
FAST = {"xla_backend_optimization_level": 0}


def batch():
    """Rows that the devices share out: three columns, two actions' values and log-policy, annotators, uneven masks."""
    rng = np.random.default_rng(0)
    where = rng.random(NUMBER) < 0.7
    where[4:9] = False
    log_policy = np.log(rng.dirichlet(np.ones(2), NUMBER))
    arrays = {"x": rng.normal(size=(NUMBER, 3)), "values": rng.normal(size=(NUMBER, 2)), "log_policy": log_policy}
    arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    return arrays | {"annotators": rng.integers(0, 5, NUMBER), "where": where}


def everything(axis_name):
    """Every public function of ``losses`` that takes ``axis_name``: what is per row, and what is of the whole batch."""

    def outputs(rows):
        one, two, three = rows["x"].T
        options = {"where": rows["where"], "axis_name": axis_name}
        policy = rows["values"], rows["log_policy"], 0.5
        moments = losses.margin_moments(one, two, 0.3, **options)
        log_likelihoods = losses.bradley_terry(jnp.stack([one, two]))
        soft = losses.responsibilities(log_likelihoods, rows["annotators"], num_annotators=5, **options)
        of_rows = {"typical_pairs": losses.typical_pairs(one, moments, 0.6, **options)}
        of_batch = {
            "clipped_surrogate": losses.clipped_surrogate(one, two, three, 0.2, **options),
            "clip_fraction": losses.clip_fraction(one, two, 0.2, **options),
            "dpo_loss": losses.dpo_loss(one, two, 0.3, **options),
            "ipo_loss": losses.ipo_loss(one, two, 0.3, **options),
            "robust_dpo_loss": losses.robust_dpo_loss(one, two, 0.3, 0.1, **options),
            "conservative_dpo_loss": losses.conservative_dpo_loss(one, two, 0.3, 0.1, **options),
            "beta_dpo_loss": losses.beta_dpo_loss(one, two, 0.3, **options),
            "batch_beta": losses.batch_beta(one, moments, 0.3, **options),
            "margin_moments": moments,
            "reward_model_loss": losses.reward_model_loss(one, jnp.exp(two), **options),
            "value_loss": losses.value_loss(one, two, **options),
            "responsibilities": soft,
            "update_log_prior": losses.update_log_prior(jax.nn.softmax(rows["values"]), **options),
            "population_utilities": losses.population_utilities(jnp.stack([one, two]), three, 0.1, **options),
            "residual_temperature": losses.residual_temperature(one, **options),
            "virel_elbo": losses.virel_elbo(*policy, **options),
            "virel_actor_loss": losses.virel_actor_loss(*policy, **options),
            "virel_sampled_actor_loss": losses.virel_sampled_actor_loss(one, two, three, 0.5, **options),
            "virel_critic_loss": losses.virel_critic_loss(one, losses.residual_temperature(two, **options), **options),
        }
        return of_rows, of_batch

    return outputs


def with_gradients(axis_name):
    """The same, and the gradient of the sum of all that is of the batch in one parameter that every row shares."""
    function = everything(axis_name)

    def outputs(rows):
        def total(shift):
            of_rows, of_batch = function(rows | {"x": rows["x"] * shift, "values": rows["values"] * shift})
            return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(of_batch)), (of_rows, of_batch)

        gradient, (of_rows, of_batch) = jax.grad(total, has_aux=True)(jnp.float32(1.0))
        return of_rows, of_batch | {"gradient": gradient}

    return outputs


def mesh():
    return Mesh(np.array(jax.devices()[:DEVICES]), ("data",))


def by_jit():
    rows = jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh(), P("data"))), batch())
    return jax.jit(with_gradients(None), compiler_options=FAST)(rows)


def by_shard_map():
    mapped = jax.shard_map(with_gradients("data"), mesh=mesh(), in_specs=P("data"), out_specs=(P("data"), P()))
    return jax.jit(mapped, compiler_options=FAST)(batch())


def by_pmap():
    def averaged(rows):
        of_rows, of_batch = with_gradients("data")(rows)
        return of_rows, of_batch | {"gradient": jax.lax.pmean(of_batch["gradient"], "data")}

    with warnings.catch_warnings():
        # jax announces the end of pmap; until then its users get the same numbers.
        warnings.simplefilter("ignore", DeprecationWarning)
        split = jax.tree.map(lambda x: x.reshape(DEVICES, -1, *x.shape[1:]), batch())
        of_rows, of_batch = jax.pmap(averaged, axis_name="data", devices=jax.devices()[:DEVICES])(split)
    return jax.tree.map(lambda x: x.reshape(NUMBER, *x.shape[2:]), of_rows), jax.tree.map(lambda x: x[-1], of_batch)


def test_no_public_function_is_left_out():
    takes = {
        name
        for name in losses.__all__
        if inspect.isfunction(getattr(losses, name))
        and "axis_name" in inspect.signature(getattr(losses, name)).parameters
    }
    of_rows, of_batch = jax.eval_shape(everything(None), batch())
    assert takes == set(of_rows) | set(of_batch)


@pytest.fixture(scope="module")
def undivided():
    return jax.jit(with_gradients(None), compiler_options=FAST)(batch())


@pytest.mark.parametrize("way", [by_jit, by_shard_map, by_pmap])
def test_every_function_and_the_gradient(way, undivided):
    of_rows, of_batch = way()
    np.testing.assert_array_equal(of_rows["typical_pairs"], undivided[0]["typical_pairs"])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), of_batch, undivided[1])
