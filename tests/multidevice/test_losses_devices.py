"""Terms of parts are the terms of the whole, and 1, 2 and 8 devices have one loss and one gradient.

Units are spread by jit over sharded arrays, by shard_map and by legacy pmap; micro-batches are ragged.
"""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gempi_jax import losses

NUMBER, SAMPLES = 32, 3
# Tiny arrays: compiling is all that these tests cost.
FAST = {"xla_backend_optimization_level": 0}


def batch():
    """Units that devices and micro-batches share out: columns, groups, a critic's actions, annotators, uneven masks."""
    rng = np.random.default_rng(0)
    where, of_group = rng.random(NUMBER) < 0.7, rng.random((NUMBER, SAMPLES)) < 0.7
    where[4:9], of_group[4:9] = False, False
    log_policy = np.log(rng.dirichlet(np.ones(2), NUMBER))
    arrays = {"x": rng.normal(size=(NUMBER, 3)), "values": rng.normal(size=(NUMBER, 2)), "log_policy": log_policy}
    arrays |= {"rho": rng.normal(size=(NUMBER, SAMPLES)), "gains": rng.normal(size=(NUMBER, SAMPLES))}
    arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    return arrays | {"annotators": rng.integers(0, 5, NUMBER), "where": where, "of_group": of_group}


def terms(rows):
    """Every unreduced function: what is of each unit, and depends on no other."""
    one, two, three = rows["x"].T
    where, of_group = {"where": rows["where"]}, {"where": rows["of_group"]}
    rho, gains = rows["rho"], rows["gains"]
    target = jax.nn.log_softmax(gains)
    fitted = losses.fitted_baseline(rho, gains, scale=0.3, **of_group)
    return {
        "bradley_terry": losses.bradley_terry(one),
        "implicit_reward": losses.implicit_reward(one, two, 0.1),
        "log_ratios": losses.log_ratios(one, two, **where),
        "sequence_log_ratios": losses.sequence_log_ratios(rho, gains, **of_group),
        "kl_terms": losses.kl_terms(one, two, **where),
        "clipped_surrogate": losses.clipped_surrogate(rho, three, (0.2, 0.3), **of_group),
        "clip_indicators": losses.clip_indicators(rho, three, 0.2, **of_group),
        "dpo_loss": losses.dpo_loss(one, two, 0.3, **where),
        "ipo_loss": losses.ipo_loss(one, two, 0.3, **where),
        "robust_dpo_loss": losses.robust_dpo_loss(one, two, 0.3, 0.1, **where),
        "conservative_dpo_loss": losses.conservative_dpo_loss(one, two, 0.3, 0.1, **where),
        "beta_dpo_loss": losses.beta_dpo_loss(one, two, jnp.exp(three), rows["where"]),
        "reward_model_loss": losses.reward_model_loss(one, jnp.exp(two), **where),
        "value_loss": losses.value_loss(one, two, **where),
        "clipped_value_loss": losses.clipped_value_loss(one, two, three, 0.2, **where),
        "forward_softmax": losses.forward_softmax(rho, target, **of_group),
        "reverse_softmax": losses.reverse_softmax(rho, target, **of_group),
        "nca_loss": losses.nca_loss(rho, target, **of_group),
        "group_mean": losses.group_mean(gains, **of_group),
        "log_mean_exp": losses.log_mean_exp(gains, 0.5, **of_group),
        "fitted_baseline": fitted,
        "log_ratio_regression": losses.log_ratio_regression(rho, gains, scale=0.3, baseline=fitted, **of_group),
        "centred_regression": losses.centred_regression(rho, gains, scale=0.3, **of_group),
        "fitted_regression": losses.fitted_regression(rho, gains, scale=0.3, **of_group),
        "pair_regression": losses.pair_regression(rho, gains, scale=0.3, **of_group),
    }


def statistics(axis_name, rows):
    """Every function that takes ``axis_name``: what is per unit, and what is of the whole batch."""
    one, two, three = rows["x"].T
    options = {"where": rows["where"], "axis_name": axis_name}
    policy = rows["values"], rows["log_policy"], 0.5
    moments = losses.margin_moments(one - two, **options)
    log_likelihoods = losses.bradley_terry(jnp.stack([one, two]))
    readings = [f(one, two, 0.3, moments, **options) for f in (losses.published_beta, losses.released_beta)]
    of_rows = {
        "typical_pairs": losses.typical_pairs(one, moments, 0.6, **options),
        "kept": [reading.kept for reading in readings],
    }
    of_batch = {
        "batch_beta": losses.batch_beta(one, moments, 0.3, **options),
        "margin_moments": moments,
        "published_beta": readings[0]._replace(kept=()),
        "released_beta": readings[1]._replace(kept=()),
        "responsibilities": losses.responsibilities(log_likelihoods, rows["annotators"], num_annotators=5, **options),
        "update_log_prior": losses.update_log_prior(jax.nn.softmax(rows["values"]), **options),
        "population_utilities": losses.population_utilities(jnp.stack([one, two]), three, 0.1, **options),
        "residual_temperature": losses.residual_temperature(one, **options),
        "virel_elbo": losses.virel_elbo(*policy, **options),
        "virel_actor_loss": losses.virel_actor_loss(*policy, **options),
        "virel_sampled_actor_loss": losses.virel_sampled_actor_loss(one, two, three, 0.5, **options),
        "virel_critic_loss": losses.virel_critic_loss(one, losses.residual_temperature(two, **options), **options),
    }
    return of_rows, of_batch


def with_gradients(axis_name):
    """Terms, statistics, and the gradient of all losses in one parameter that every unit shares.

    The terms are summed and divided by a number that is counted over the whole batch.
    """

    def outputs(rows):
        counted = jnp.sum(rows["where"])
        counted = (counted if axis_name is None else jax.lax.psum(counted, axis_name)).astype(jnp.float32)

        def loss(shift):
            moved = rows | {name: rows[name] * shift for name in ("x", "values", "rho")}
            of_terms, (of_rows, of_batch) = terms(moved), statistics(axis_name, moved)
            summed = sum(jnp.sum(leaf, dtype=jnp.float32) for leaf in jax.tree.leaves(of_terms)) / counted
            summed = summed if axis_name is None else jax.lax.psum(summed, axis_name)
            total = summed + sum(jnp.sum(leaf) for leaf in jax.tree.leaves(of_batch))
            return total, (of_rows | {"terms": of_terms}, of_batch | {"mean": summed})

        gradient, (of_rows, of_batch) = jax.grad(loss, has_aux=True)(jnp.float32(1.0))
        return of_rows, of_batch | {"gradient": gradient}

    return outputs


def mesh(devices):
    return Mesh(np.array(jax.devices()[:devices]), ("data",))


def by_jit(devices):
    rows = jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh(devices), P("data"))), batch())
    return jax.jit(with_gradients(None), compiler_options=FAST)(rows)


def by_shard_map(devices):
    mapped = jax.shard_map(with_gradients("data"), mesh=mesh(devices), in_specs=P("data"), out_specs=(P("data"), P()))
    return jax.jit(mapped, compiler_options=FAST)(batch())


def by_pmap(devices):
    def averaged(rows):
        of_rows, of_batch = with_gradients("data")(rows)
        return of_rows, of_batch | {"gradient": jax.lax.pmean(of_batch["gradient"], "data")}

    with warnings.catch_warnings():
        # jax announces the end of pmap; until then its users get the same numbers.
        warnings.simplefilter("ignore", DeprecationWarning)
        split = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch())
        of_rows, of_batch = jax.pmap(averaged, axis_name="data", devices=jax.devices()[:devices])(split)
    return jax.tree.map(lambda x: x.reshape(NUMBER, *x.shape[2:]), of_rows), jax.tree.map(lambda x: x[-1], of_batch)


def functions():
    return {name: getattr(losses, name) for name in losses.__all__ if inspect.isfunction(getattr(losses, name))}


def test_no_public_function_is_left_out():
    takes = {name for name, each in functions().items() if "axis_name" in inspect.signature(each).parameters}
    of_rows, of_batch = jax.eval_shape(lambda rows: statistics(None, rows), batch())
    assert takes == set(of_rows) - {"kept"} | set(of_batch)
    # A loss that takes no axis_name is one of the terms, or it would be a mean over a part.
    masked = {name for name, each in functions().items() if "where" in inspect.signature(each).parameters}
    assert masked - takes <= set(jax.eval_shape(terms, batch())) <= set(functions())


@pytest.fixture(scope="module")
def undivided():
    return jax.jit(with_gradients(None), compiler_options=FAST)(batch())


def close(found, expected):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), found, expected)


@pytest.mark.parametrize(
    ("way", "devices"), [(by_jit, 8), (by_shard_map, 1), (by_shard_map, 2), (by_shard_map, 8), (by_pmap, 8)]
)
def test_every_function_and_the_gradient(way, devices, undivided):
    of_rows, of_batch = way(devices)
    for name in ("typical_pairs", "kept"):
        jax.tree.map(np.testing.assert_array_equal, of_rows.pop(name), undivided[0][name])
    close(of_rows["terms"], undivided[0]["terms"])
    close(of_batch, undivided[1])


def test_terms_of_ragged_parts_are_the_terms_of_the_whole(undivided):
    # Micro-batches of 5, 11 and 16 units: the clipped surrogate's means over them would be another loss.
    rows, expected = batch(), undivided[0]["terms"]
    parts = [jax.tree.map(lambda x, a=a, b=b: x[a:b], rows) for a, b in ((0, 5), (5, 16), (16, NUMBER))]
    found = [jax.jit(terms, compiler_options=FAST)(part) for part in parts]
    close(jax.tree.map(lambda *x: jnp.concatenate(x), *found), expected)
