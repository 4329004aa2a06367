"""One device, 2 and 8: jit over sharded arrays, shard_map and legacy pmap give the same E-step, selection and duals."""

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
    """Binary advantages (ties everywhere), uneven masks, an impossible sample."""
    rng = np.random.default_rng(0)
    sampler = rng.normal(-20, 2, SHAPE)
    anchors = sampler + np.array([0.2, 0.0])[:, None, None] * rng.normal(size=(2, *SHAPE))
    anchors[0, 3, 1] = -np.inf
    mask = rng.random(SHAPE) < 0.7
    mask[4:7] = False
    arrays = (rng.integers(0, 2, SHAPE) + 0.1 * rng.integers(0, 3, SHAPE), sampler, anchors)
    tie_break = rng.integers(0, 2, SHAPE)
    advantages, sampler, anchors, tie_break = (np.asarray(x, np.float32) for x in (*arrays, tie_break))
    return Samples(advantages, sampler, anchors, mask, tie_break)


def both(**kind):
    return (em.Anchor("ref", **kind), em.Anchor("old", **kind))


SPECS = {
    "vmpo": em.GempiSpec(both(budget=0.1), em.Dual(), em.TopK(0.5)),
    "at_dar_by_group": em.GempiSpec(both(budget=0.2), em.Solved(), scope=em.Scope.GROUP),
    "by_log_weight": em.GempiSpec(both(coefficient=0.7), filter=em.TopK(0.3, em.Score.LOG_WEIGHT, True)),
    "solved": em.GempiSpec(both(budget=0.1), em.Solved(), em.TopK(0.5)),
    "clipped": em.GempiSpec(both(coefficient=0.7), scope=em.Scope.NONE, weight_clip=2.0),
    "chi_squared": em.GempiSpec((em.Anchor("ref", 0.5, divergence=numerics.CHI_SQUARED), em.Anchor("old", 0.2))),
}
DUALS = {"temperature": jnp.array([0.6, 0.9])}


def run(spec, axis_name=None):
    """The target and the gradient of its dual."""

    def both(duals, batch):
        def loss(duals):
            target = em.e_step(spec, duals, batch, axis_name=axis_name)
            return target.dual_loss, target

        gradient, target = jax.grad(loss, has_aux=True)(duals)
        return target.weights, {"dual": target.dual_loss, "gradient": gradient, "metrics": target.metrics}

    return both


def compare(found, expected):
    np.testing.assert_array_equal(np.asarray(found[0]) > 0, np.asarray(expected[0]) > 0)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-5)


@pytest.fixture(scope="module")
def on_one_device():
    return {name: jax.jit(run(spec))(DUALS, samples()) for name, spec in SPECS.items()}


def mesh(devices):
    return Mesh(np.array(jax.devices()[:devices]), ("data",))


LAYOUT = Samples(P("data"), P("data"), P(None, "data"), P("data"), P("data"))


@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize("name", SPECS)
def test_jit_over_sharded_arrays(name, devices, on_one_device):
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh(devices), spec), LAYOUT)
    batch = jax.tree.map(jax.device_put, samples(), shardings)
    compare(jax.jit(run(SPECS[name]))(DUALS, batch), on_one_device[name])


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("name", SPECS)
def test_shard_map(name, devices, on_one_device):
    mapped = jax.shard_map(
        run(SPECS[name], "data"), mesh=mesh(devices), in_specs=(P(), LAYOUT), out_specs=(P("data"), P())
    )
    compare(jax.jit(mapped)(DUALS, samples()), on_one_device[name])


@pytest.mark.parametrize("name", ["vmpo", "at_dar_by_group"])
def test_legacy_pmap(name, on_one_device):
    devices = 8
    batch = samples()
    split = Samples(
        *(
            None if x is None else np.stack(np.split(x, devices, axis=1 if field == "anchor_log_probs" else 0))
            for field, x in batch._asdict().items()
        )
    )
    with warnings.catch_warnings():
        # jax announces the end of pmap; until then its users get the same numbers.
        warnings.simplefilter("ignore", DeprecationWarning)
        mapped = jax.pmap(
            run(SPECS[name], "data"), axis_name="data", in_axes=(None, 0), devices=jax.devices()[:devices]
        )
        weights, rest = mapped(DUALS, split)
    for device in (0, devices - 1):
        compare((weights.reshape(SHAPE), jax.tree.map(lambda x, d=device: x[d], rest)), on_one_device[name])


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
