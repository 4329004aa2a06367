"""One contract for every method of the table; a new method is a new row by itself."""

import functools
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gempi_jax.contracts import Counts
from gempi_jax.methods import METHODS
from gempi_jax.training.learn import Passes, learn
from gempi_jax.training.optimizers import ExponentiatedGradient, build
from gempi_jax.training.schedules import Schedule
from gempi_jax.training.state import TrainState
from gempi_jax.training.step import Optimizers, init_dual_opt_state
from tests.methods.worlds import GROUPS, SAMPLES, make_data, make_params, make_samples, world

NAMES = sorted(METHODS)
FAST = {"xla_backend_optimization_level": 0}
DUALS = build(ExponentiatedGradient(Schedule(0.1)), 100)
OPTIMIZERS = Optimizers(optax.adam(1e-2), {"temperature": DUALS, "multiplier": DUALS})


def compiled(function):
    return jax.jit(function, compiler_options=FAST)


@functools.cache
def case(name):
    """A method, its data, samples, duals and target."""
    method, data = METHODS[name](), make_data()
    samples, duals, state = make_samples(method, data), method.init(), method.init_state(jax.random.key(3))
    target = compiled(method.e_step)(duals, samples, state)
    return method, data, samples, duals, state, target


def part_loss(method, params, duals, target, data, counts, rows=slice(None)):
    """The loss of some units, as a part of an update with these counts."""
    part = jax.tree.map(lambda x: x[rows], (data, target.examples))
    evaluation = world(method).evaluate(params, {}, part[0], jax.random.key(0), counts)
    return method.m_step(duals, target._replace(examples=part[1]), evaluation).loss


@pytest.mark.parametrize("name", NAMES)
def test_a_target_is_detached_finite_and_the_same_without_jit(name):
    method, _, samples, duals, state, target = case(name)
    assert all(value.shape[0] == GROUPS for value in target.examples.values())
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((target.examples, target.metrics)))
    if "estep/solver_iterations" not in target.metrics:  # seconds, one operation at a time
        eager = method.e_step(duals, samples, state)
        chex.assert_trees_all_close(eager.examples, target.examples, rtol=1e-5, atol=1e-6)

    def examples(advantages, rewards):
        return method.e_step(duals, samples._replace(advantages=advantages, rewards=rewards), state).examples

    arguments = (samples.advantages, samples.rewards)
    _, tangents = jax.jvp(examples, arguments, jax.tree.map(jnp.ones_like, arguments))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(tangents) if leaf.dtype != jax.dtypes.float0)


@pytest.mark.parametrize("name", NAMES)
def test_ragged_parts_add_up_to_the_update(name):
    method, data, _, duals, _, target = case(name)
    params = make_params()
    counts = Counts(*world(method).count(data), jnp.float32(1.0))

    @compiled
    def gradients(params, duals):
        def loss(rows):
            return jax.grad(lambda p, d: part_loss(method, p, d, target, data, counts, rows), argnums=(0, 1))(
                params, duals
            )

        parts = [loss(rows) for rows in (slice(0, 1), slice(1, 4), slice(4, GROUPS))]
        return loss(slice(None)), jax.tree.map(lambda *leaves: sum(leaves), *parts)

    whole, parts = gradients(params, duals)
    # A prior is of no example: each part sees it by its share of the units.
    chex.assert_trees_all_close(whole, parts, rtol=2e-5, atol=2e-6)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(whole))
    assert np.any(np.asarray(whole[0]["policy"]["w"]))


@pytest.mark.parametrize("name", NAMES)
def test_padding_says_nothing(name):
    method, data, _, duals, _, target = case(name)
    counts = Counts(*world(method).count(data), jnp.float32(1.0))
    garbage = data._replace(features=jnp.where(data.mask[..., None], data.features, 50.0))

    @compiled
    def gradient(data):
        return jax.grad(lambda p: part_loss(method, p, duals, target, data, counts))(make_params())["policy"]

    chex.assert_trees_all_close(gradient(data), gradient(garbage), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rewards", ["equal", "huge", "one"])
def test_extreme_rewards_are_finite_and_equal_ones_move_nothing(name, rewards):
    method, data, _, duals, state, _ = case(name)
    given = {
        "equal": np.full((GROUPS, SAMPLES), 0.1),
        "huge": 1e6 * np.random.default_rng(0).normal(size=(GROUPS, SAMPLES)),
        "one": np.eye(GROUPS, SAMPLES) * np.eye(GROUPS)[:, :1],
    }[rewards]
    samples = make_samples(method, data, given)
    target = compiled(method.e_step)(duals, samples, state)
    counts = Counts(*world(method).count(data), jnp.float32(1.0))
    gradient = compiled(jax.grad(lambda p: part_loss(method, p, duals, target, data, counts)))(make_params())
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((target.examples, gradient)))
    if rewards == "equal" and method.needs.rewards:
        assert not bool(target.signal)


def start(method):
    """The state in which a run of the method begins."""
    params, duals, zero = make_params(), method.init(), jnp.zeros((), jnp.int32)
    opt_state, dual_opt_state = OPTIMIZERS.params.init(params), init_dual_opt_state(OPTIMIZERS, duals)
    key = jax.random.key(0)
    own = method.init_state(key)
    snapshots = {name: make_params()["policy"] for name in method.needs.snapshots}
    return TrainState(zero, params, opt_state, duals, dual_opt_state, snapshots, key, zero, zero, own)


@pytest.mark.parametrize("name", NAMES)
def test_learning_scans_compiles_once_and_keeps_nothing_outside_its_state(name):
    method, data, samples, *_ = case(name)
    passes = Passes(updates_per_epoch=2, num_epochs=2, num_microbatches=2)
    traces = []

    @compiled
    def run(state, keys):
        traces.append(name)

        def iteration(state, key):
            return learn(method, world(method), OPTIMIZERS, state, data, samples, key, passes)

        return jax.lax.scan(iteration, state, keys)

    keys = jax.random.split(jax.random.key(1), 2)
    first, metrics = run(start(method), keys)
    second, _ = run(first, keys)
    assert np.any(np.asarray(first.params["policy"]["w"]) != np.asarray(make_params()["policy"]["w"]))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((second.params, metrics)))
    # From a state that was written and read, key included, a run goes on as if nothing had been.
    read = jax.tree.map(lambda x: x if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else np.array(x), first)
    again, _ = run(read, keys)
    chex.assert_trees_all_equal(again.params, second.params)
    assert traces == [name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("mapping", "devices"), [("shard_map", 2), ("shard_map", 8), ("jit", 8), ("pmap", 8)])
def test_devices_change_no_gradient(name, mapping, devices):
    method, data, _, duals, _, target = case(name)
    counts = Counts(*world(method).count(data), jnp.float32(1.0))
    params = make_params()

    def gradient(data, examples):
        return jax.grad(lambda p: part_loss(method, p, duals, target._replace(examples=examples), data, counts))(params)

    def summed(data, examples):
        return jax.lax.psum(gradient(data, examples), "data")

    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    parts = data, target.examples
    if mapping == "jit":
        found = compiled(gradient)(*jax.device_put(parts, NamedSharding(mesh, P("data"))))
    elif mapping == "shard_map":
        specs = {"in_specs": (P("data"), P("data")), "out_specs": P(), "check_vma": False}
        found = compiled(jax.shard_map(summed, mesh=mesh, **specs))(*parts)
    else:
        split = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), parts)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            found = jax.tree.map(lambda x: x[0], jax.pmap(summed, axis_name="data")(*split))
    chex.assert_trees_all_close(found, compiled(gradient)(*parts), rtol=2e-5, atol=2e-6)
