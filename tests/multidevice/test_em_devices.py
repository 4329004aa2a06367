"""One device, 2 and 8: jit over sharded arrays, shard_map and legacy pmap give the same E-step, selection and duals."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gempi_jax import em, numerics
from gempi_jax.contracts import Samples

SHAPE = (16, 4)


def samples():
    """Binary advantages (ties everywhere), uneven masks, an impossible sample, groups that tell nothing."""
    rng = np.random.default_rng(0)
    sampler = rng.normal(-20, 2, SHAPE)
    anchors = sampler + np.array([0.2, 0.0])[:, None, None] * rng.normal(size=(2, *SHAPE))
    anchors[0, 3, 1] = -np.inf
    mask = rng.random(SHAPE) < 0.7
    mask[4:7] = False
    arrays = (rng.integers(0, 2, SHAPE) + 0.1 * rng.integers(0, 3, SHAPE), sampler, anchors)
    tie_break = rng.integers(0, 2, SHAPE)
    advantages, sampler, anchors, tie_break = (np.asarray(x, np.float32) for x in (*arrays, tie_break))
    signal = np.broadcast_to(np.arange(SHAPE[0])[:, None] % 5 != 1, SHAPE)
    return Samples(advantages, sampler, anchors, mask, tie_break, signal)


def both(**kind):
    return (em.Anchor("ref", **kind), em.Anchor("old", **kind))


SPECS = {
    "vmpo": em.GempiSpec(both(budget=0.1), em.Dual(), em.TopK(0.5)),
    "at_dar_by_group": em.GempiSpec(both(budget=0.2), em.Solved(), scope=em.Scope.GROUP),
    "by_log_weight": em.GempiSpec(both(coefficient=0.7), filter=em.TopK(0.3, em.Score.LOG_WEIGHT)),
    "solved": em.GempiSpec(both(budget=0.1), em.Solved(), em.TopK(0.5)),
    "price_and_budget": em.GempiSpec((em.Anchor("ref", 0.7), em.Anchor("old", budget=0.1)), em.Solved(), em.TopK(0.5)),
    "clipped": em.GempiSpec(both(coefficient=0.7), scope=em.Scope.UNNORMALIZED, weight_clip=2.0),
    "solved_mix_by_group": em.GempiSpec(
        (em.Anchor("ref", budget=0.1, divergence=numerics.REVERSE_KL), em.Anchor("old", budget=0.1)),
        em.Solved(),
        scope=em.Scope.GROUP,
    ),
    "chi_squared": em.GempiSpec((em.Anchor("ref", 0.5, divergence=numerics.CHI_SQUARED), em.Anchor("old", 0.2))),
}
WITHOUT_DUALS = {
    "raft": em.GempiSpec(filter=em.TopK(0.3, by_group=True), transform=em.GroupCentred()),
    "rest_em": em.GempiSpec(filter=em.Threshold(0.5), transform=em.Rewards()),
    "standardized": em.GempiSpec(both(coefficient=0.7), transform=em.Standardized()),
    "counting": em.GempiSpec((em.Anchor("ref", 2.0),), transform=em.Rewards(), weighting=em.Tilted(counting=True)),
    "max_rl": em.GempiSpec(transform=em.RatioToMean(), weighting=em.Signed()),
    "two_sets": em.GempiSpec(transform=em.GroupRank(), weighting=em.TwoSets(0.3)),
    "two_sets_by_group": em.GempiSpec(transform=em.GroupRank(), weighting=em.TwoSets(0.3), scope=em.Scope.GROUP),
    "opposed": em.GempiSpec(both(coefficient=0.7), transform=em.GroupCentred(), weighting=em.Opposed()),
    "opposed_by_group": em.GempiSpec(both(coefficient=0.7), weighting=em.Opposed(), scope=em.Scope.GROUP),
}
"""Filters, transforms and weightings that cost little, compiled together."""
DUALS = {"temperature": jnp.array([0.6, 0.9])}


def run(spec, axis_name=None):
    """The target and the gradient of its dual."""

    def both(batch):
        def loss(duals):
            target = em.e_step(spec, duals, batch, axis_name=axis_name)
            return target.dual_loss, target

        gradient, target = jax.grad(loss, has_aux=True)(DUALS)
        return target.weights, {"dual": target.dual_loss, "gradient": gradient, "metrics": target.metrics}

    return both


def compare(found, expected):
    np.testing.assert_array_equal(np.sign(found[0]), np.sign(expected[0]))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-5)


@pytest.fixture(scope="module")
def on_one_device():
    return {name: jax.jit(run(spec), compiler_options=FAST)(samples()) for name, spec in SPECS.items()}


def mesh(devices):
    return Mesh(np.array(jax.devices()[:devices]), ("data",))


LAYOUT = Samples(P("data"), P("data"), P(None, "data"), *[P("data")] * 3)
# Tiny arrays: compiling is all that these tests cost.
FAST = {"xla_backend_optimization_level": 0}


def by_jit(function, devices):
    """Plain jit over sharded arrays: no axis is named."""
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh(devices), spec), LAYOUT)
    return jax.jit(function(None), compiler_options=FAST)(jax.tree.map(jax.device_put, samples(), shardings))


def by_shard_map(function, devices):
    mapped = jax.shard_map(function("data"), mesh=mesh(devices), in_specs=(LAYOUT,), out_specs=(P("data"), P()))
    return jax.jit(mapped, compiler_options=FAST)(samples())


def by_pmap(function, devices):
    split = {
        field: np.stack(np.split(x, devices, axis=1 if field == "anchor_log_probs" else 0))
        for field, x in samples()._asdict().items()
        if x is not None
    }
    with warnings.catch_warnings():
        # jax announces the end of pmap; until then its users get the same numbers.
        warnings.simplefilter("ignore", DeprecationWarning)
        mapped = jax.pmap(function("data"), axis_name="data", devices=jax.devices()[:devices])
        of_samples, of_batch = mapped(Samples(**split))
    for leaf in jax.tree.leaves(of_batch):
        np.testing.assert_array_equal(leaf, np.broadcast_to(np.asarray(leaf)[:1], leaf.shape))
    return jax.tree.map(lambda x: x.reshape(SHAPE), of_samples), jax.tree.map(lambda x: x[0], of_batch)


WAYS = {"jit": by_jit, "shard_map": by_shard_map, "pmap": by_pmap}


def everything(axis_name):
    """Every public function of ``em`` that takes ``axis_name``: what is per sample, and what is of the whole batch."""

    def outputs(batch):
        coefficients, budgets = jnp.array([0.6, 0.9]), jnp.array([0.1, 0.1])
        mixed = (numerics.CHI_SQUARED, numerics.KL)
        options = {"where": batch.mask, "axis_name": axis_name}
        ratios = em.anchor_log_ratios(batch.anchor_log_probs, batch.sampler_log_probs)
        log_weights = em.mixture.log_weights_from_ratios(batch.advantages, ratios, coefficients)
        weights = em.normalize_weights(log_weights, **options)
        selected = em.top_k_mask(batch.advantages, 0.5, tie_break=batch.rewards, **options)
        general = em.target_log_weights(batch.advantages, ratios, coefficients, mixed, **options)
        target = em.e_step(SPECS["vmpo"], DUALS, batch, axis_name=axis_name)
        of_samples = {
            "normalize_weights": weights,
            "top_k_mask": selected.astype(jnp.float32),
            "target_log_weights": jnp.exp(general),
            "e_step": target.weights,
        }
        of_batch = {
            "log_partition": em.log_partition(log_weights, **options),
            "effective_sample_size": em.effective_sample_size(weights, **options),
            "chi_squared": em.chi_squared(weights, **options),
            "weights_entropy": em.weights_entropy(weights, **options),
            "log_partition_bias": em.log_partition_bias(weights, **options),
            "truncation_mass": em.truncation_mass(log_weights, selected, **options),
            "anchor_kl": em.anchor_kl(log_weights, ratios, **options),
            "sampled_divergences": em.sampled_divergences(general, ratios, mixed, **options),
            "temperature_dual": em.temperature_dual(coefficients, budgets, batch.advantages, ratios, **options),
            "solve_temperature": [
                em.solve_temperature(budgets[:m], batch.advantages, ratios[:m], divergences=divergences, **options)
                for m, divergences in ((2, None), (1, mixed[:1]))
            ],
            "e_step": (target.dual_loss, target.metrics),
        }
        return of_samples, of_batch

    return outputs


def test_no_public_function_is_left_out():
    takes = {
        name
        for name in em.__all__
        if inspect.isfunction(getattr(em, name)) and "axis_name" in inspect.signature(getattr(em, name)).parameters
    }
    of_samples, of_batch = jax.eval_shape(everything(None), samples())
    assert takes == set(of_samples) | set(of_batch)


@pytest.fixture(scope="module")
def undivided():
    return jax.jit(everything(None), compiler_options=FAST)(samples())


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("way", WAYS)
def test_every_function(way, devices, undivided):
    found = WAYS[way](everything, devices)
    np.testing.assert_array_equal(found[0]["top_k_mask"], undivided[0]["top_k_mask"])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-5), found, undivided)


@pytest.mark.parametrize("way", ["jit", "shard_map"])
@pytest.mark.parametrize("name", SPECS)
def test_e_step_and_gradient_of_the_dual(name, way, on_one_device):
    compare(WAYS[way](lambda axis_name: run(SPECS[name], axis_name), 8), on_one_device[name])


def weigh(axis_name):
    """Weights and metrics of each of ``WITHOUT_DUALS``."""

    def all_of_them(batch):
        targets = {
            name: em.e_step(
                spec,
                {},
                batch._replace(anchor_log_probs=batch.anchor_log_probs[: len(spec.anchors)]),
                axis_name=axis_name,
            )
            for name, spec in WITHOUT_DUALS.items()
        }
        weights = {name: target.weights for name, target in targets.items()}
        return weights, {name: (target.metrics, target.signal) for name, target in targets.items()}

    return all_of_them


@pytest.fixture(scope="module")
def weighed():
    return jax.jit(weigh(None), compiler_options=FAST)(samples())


@pytest.mark.parametrize(("way", "devices"), [("jit", 8), ("shard_map", 2), ("shard_map", 8), ("pmap", 8)])
def test_filters_transforms_and_weightings(way, devices, weighed):
    found = WAYS[way](weigh, devices)
    for name, weights in weighed[0].items():
        np.testing.assert_array_equal(np.sign(found[0][name]), np.sign(weights), err_msg=name)
        assert np.any(weights), name
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), found, weighed)


@pytest.mark.parametrize("devices", [2, 8])
def test_top_k_is_global(devices):
    # All that is best lies on the first device: a top-k per device would take half of each.
    scores = jnp.arange(64.0)[::-1]
    mapped = jax.shard_map(
        lambda x: numerics.top_k_mask(x, 0.125, axis_name="data"),
        mesh=mesh(devices),
        in_specs=P("data"),
        out_specs=P("data"),
    )
    np.testing.assert_array_equal(jax.jit(mapped)(scores), np.arange(64) < 8)
    ties = jax.jit(mapped)(jnp.zeros(64))
    np.testing.assert_array_equal(ties, np.arange(64) < 8)
