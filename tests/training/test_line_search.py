"""The trust region by the step's length, on policies whose divergence is known."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gempi_jax import em, numerics
from gempi_jax.contracts import Evaluation, Metric, Samples
from gempi_jax.methods import vmpo
from gempi_jax.methods.gempi import from_spec
from gempi_jax.training import sharding
from gempi_jax.training.learn import Passes, learn
from gempi_jax.training.line_search import limit_step
from gempi_jax.training.state import TrainState
from gempi_jax.training.step import Optimizers, World, init_dual_opt_state

GROUPS, SAMPLES, ACTIONS, BUDGET = 16, 4, 5, 0.01
METHOD = vmpo(epsilon_alpha=BUDGET)


def quadratic(curvature):
    """D = curvature / 2 |theta - pi_t|^2 at each of the batch's terms."""

    def divergence(params, snapshots, batch):
        distance = jnp.sum(jnp.square(params["policy"]["w"] - snapshots["old"]["w"]))
        return {"kl": Metric((0.5 * curvature * distance * batch).sum(), jnp.float32(batch.shape[0]))}

    return World(None, None, divergence)


def moved_state(displacement, optimizers=None, duals=None):
    old = {"w": jnp.asarray(np.random.default_rng(0).normal(size=3), jnp.float32)}
    params = {"policy": {"w": old["w"] + jnp.asarray(displacement, jnp.float32)}, "value": {"v": jnp.ones(2)}}
    zero = jnp.zeros((), jnp.int32)
    opt_state = () if optimizers is None else optimizers.params.init(params)
    return TrainState(zero, params, opt_state, duals or {}, {}, {"old": old}, jax.random.key(0), zero, zero)


def means(metrics):
    return {name: float(metric.mean()) for name, metric in metrics.items()}


@pytest.mark.parametrize(
    ("share", "scale", "left"),
    [
        # D grows with the square: 4 eps is met at half the length, 1/4 eps at twice, 1/100 eps not even at the longest.
        (4.0, 0.5, 1.0),
        (0.25, 2.0, 1.0),
        (0.01, 4.0, 0.16),
        # Two corrections shorten to 1/256, where 10^6 eps have become 10^6 / 2^16.
        (1e6, 1 / 256, 1e6 / 2**16),
    ],
)
def test_the_length_meets_the_budget(share, scale, left):
    # |(2, 1, 2)|^2 = 9, so that a curvature of 2 eps share / 9 gives D = share eps.
    state, world = moved_state((2.0, 1.0, 2.0)), quadratic(2 * BUDGET * share / 9)
    new, metrics = jax.jit(functools.partial(limit_step, METHOD, world))(state, jnp.ones(8))
    np.testing.assert_allclose(
        new.params["policy"]["w"] - state.snapshots["old"]["w"], scale * np.array([2.0, 1.0, 2.0]), rtol=1e-5
    )
    expected = {"mstep/step_scale": scale, "mstep/kl": left * BUDGET, "mstep/kl_over_budget": left}
    assert means(metrics) == pytest.approx(expected, rel=1e-5)
    # Nothing but the policy has a length.
    chex.assert_trees_all_equal(new._replace(params=new.params["value"]), state._replace(params=state.params["value"]))


@pytest.mark.parametrize("power", [1.0, 3.0])
def test_two_points_tell_the_power_with_which_the_divergence_grows(power):
    # D = 8 eps s^power.  A square root corrects s to 8^-1/2; the power that the two points tell, to the root itself.
    def divergence(params, snapshots, batch):
        distance = jnp.sqrt(jnp.sum(jnp.square(params["policy"]["w"] - snapshots["old"]["w"])) / 9)
        return {"kl": Metric(8 * BUDGET * distance**power, jnp.ones(()))}

    _, metrics = limit_step(METHOD, World(None, None, divergence), moved_state((2.0, 1.0, 2.0)), jnp.ones(8))
    assert means(metrics)["mstep/step_scale"] == pytest.approx(8 ** (-1 / power), rel=1e-4)
    assert means(metrics)["mstep/kl_over_budget"] == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("share", [0.3, 30.0])
def test_what_no_update_moved_stays(share):
    state, world = moved_state((2.0, 1.0, 2.0)), quadratic(2 * BUDGET * share / 9)
    new, metrics = limit_step(METHOD, world, state, jnp.ones(8), jnp.bool_(False))
    chex.assert_trees_all_equal(new, state)
    assert means(metrics)["mstep/step_scale"] == 1
    assert means(metrics)["mstep/kl_over_budget"] == pytest.approx(share, rel=1e-5)


def test_a_step_of_no_length_has_none():
    state, world = moved_state((0.0, 0.0, 0.0)), quadratic(1.0)
    new, metrics = limit_step(METHOD, world, state, jnp.ones(8))
    chex.assert_trees_all_equal(new, state)
    assert np.isfinite(list(means(metrics).values())).all()


def test_a_divergence_that_is_nowhere_finite_leaves_the_old_policy():
    state, world = moved_state((2.0, 1.0, 2.0)), quadratic(jnp.nan)
    new, metrics = limit_step(METHOD, world, state, jnp.ones(8))
    chex.assert_trees_all_equal(new.params["policy"], state.snapshots["old"])
    assert means(metrics)["mstep/step_scale"] == 0

    # Finite at a sixteenth of the length: that is where the search goes on from.
    def divergence(params, snapshots, batch):
        distance = jnp.sum(jnp.square(params["policy"]["w"] - snapshots["old"]["w"]))
        return {"kl": Metric(jnp.where(distance > 1, jnp.inf, BUDGET * distance * 16), jnp.ones(()))}

    # |(2, 1, 2)| / 16 has a square of 9 / 256, a share of 9 / 16: four thirds of it are the budget.
    _, metrics = limit_step(METHOD, World(None, None, divergence), state, jnp.ones(8))
    assert means(metrics)["mstep/kl_over_budget"] == pytest.approx(1.0, rel=1e-5)
    assert means(metrics)["mstep/step_scale"] == pytest.approx(4 / 3 / 16, rel=1e-5)


def test_of_two_parts_the_larger_share_counts():
    both = em.Constraint((0.1, 0.001), em.GaussianDivergence(numerics.gaussian_kl), em.LineSearch())
    method = from_spec(em.GempiSpec((em.Anchor("old", 1.0),), projection=both))

    def divergence(params, snapshots, batch):
        distance = jnp.sum(jnp.square(params["policy"]["w"] - snapshots["old"]["w"]))
        # 1/9 of each at the end: 1 / 0.9 of the mean's budget, 9 of the covariance's.
        return {"mean": Metric(distance / 81, jnp.ones(())), "covariance": Metric(distance / 1000, jnp.ones(()))}

    _, metrics = limit_step(method, World(None, None, divergence), moved_state((2.0, 1.0, 2.0)), jnp.ones(8))
    # The covariance's 9 budgets become 1 at a third of the length, the mean's 1.111 then 0.1235.
    expected = {"mstep/step_scale": 1 / 3, "mstep/kl_over_budget/covariance": 1.0, "mstep/kl_over_budget/mean": 0.12346}
    assert {name: means(metrics)[name] for name in expected} == pytest.approx(expected, rel=1e-4)


def evaluate(params, snapshots, batch, key, counts):
    log_q = jax.nn.log_softmax(batch["features"] @ params["policy"]["w"])[:, None]
    log_q = jnp.broadcast_to(log_q, (*batch["actions"].shape, ACTIONS))
    log_probs = jnp.take_along_axis(log_q, batch["actions"][..., None], -1)
    return Evaluation(log_probs, batch["mask"][..., None], {}, counts)


def categorical(params, snapshots, batch):
    log_p, log_q = (jax.nn.log_softmax(batch["features"] @ p["w"]) for p in (snapshots["old"], params["policy"]))
    values = jnp.broadcast_to(numerics.categorical_kl(log_p, log_q)[:, None], batch["mask"].shape)
    return {"kl": Metric(jnp.sum(values, where=batch["mask"]), batch["mask"].sum().astype(jnp.float32))}


def count(batch):
    return batch["mask"].sum().astype(jnp.float32), batch["mask"].sum().astype(jnp.float32)


WORLD = World(evaluate, count, categorical)


def policy_state(rate, method=METHOD):
    random = np.random.default_rng(2)
    optimizers = Optimizers(optax.adam(rate), {"multiplier": optax.sgd(1.0)})
    params = {"policy": {"w": jnp.asarray(random.normal(size=(3, ACTIONS)), jnp.float32)}}
    duals, zero = method.init(), jnp.zeros((), jnp.int32)
    state = TrainState(
        zero,
        params,
        optimizers.params.init(params),
        duals,
        init_dual_opt_state(optimizers, duals),
        {"old": jax.tree.map(jnp.copy, params["policy"])},
        jax.random.key(0),
        zero,
        zero,
    )
    return state, optimizers


def make_batch():
    random = np.random.default_rng(0)
    batch = {
        "features": jnp.asarray(random.normal(size=(GROUPS, 3)), jnp.float32),
        "actions": jnp.asarray(random.integers(0, ACTIONS, (GROUPS, SAMPLES)), jnp.int32),
        "mask": jnp.asarray(random.random((GROUPS, SAMPLES)) < 0.7),
    }
    advantages = jnp.asarray(random.normal(size=(GROUPS, SAMPLES)), jnp.float32)
    return batch, Samples(advantages, jnp.zeros_like(advantages), jnp.zeros((1, *advantages.shape)), batch["mask"])


def iterate(rate, passes, method=METHOD, samples=None):
    (state, optimizers), (batch, own) = policy_state(rate, method), make_batch()
    step = jax.jit(lambda *args: learn(method, WORLD, optimizers, *args, jax.random.key(1), passes))
    return state, *step(state, batch, own if samples is None else samples)


@pytest.mark.parametrize("rate", [0.02, 0.1, 1.0])
def test_an_iteration_ends_at_its_budget_whatever_the_learning_rate(rate):
    _, state, metrics = iterate(rate, Passes(updates_per_epoch=1, num_epochs=4))
    batch, _ = make_batch()
    # Measured again, on the whole batch, which one update an epoch sees.
    divergence = categorical(state.params, state.snapshots, batch)["kl"].mean()
    np.testing.assert_allclose(divergence, BUDGET, rtol=0.05)
    np.testing.assert_allclose(metrics["mstep/kl_over_budget"].mean(), divergence / BUDGET, rtol=1e-5)
    assert "mstep/multiplier" not in metrics
    assert state.duals == {}


def test_a_learning_rate_that_is_too_small_leaves_budget_unused():
    _, _, metrics = iterate(1e-3, Passes(num_epochs=4))
    assert metrics["mstep/step_scale"].mean() == pytest.approx(4.0)
    assert metrics["mstep/kl_over_budget"].mean() < 0.4


def test_a_batch_without_signal_moves_nothing():
    _, samples = make_batch()
    flat = samples._replace(advantages=jnp.zeros((GROUPS, SAMPLES)))
    before, after, _ = iterate(1.0, Passes(num_epochs=2), samples=flat)
    chex.assert_trees_all_equal(after.params, before.params)


def test_micro_batches_and_devices_change_nothing():
    state, _ = policy_state(1.0)
    state.params["policy"]["w"] = state.params["policy"]["w"].at[0, 0].add(2.0)
    batch, _ = make_batch()
    one, one_metrics = jax.jit(functools.partial(limit_step, METHOD, WORLD))(state, batch)
    mesh = sharding.make_mesh({"data": 4, "fsdp": 2})
    spread = sharding.put_batch(batch, mesh)
    placed = jax.device_put(state, sharding.state_shardings(state, mesh))
    for number, (start, rows) in {1: (placed, spread), 2: (placed, spread), 16: (state, batch)}.items():
        other, metrics = jax.jit(functools.partial(limit_step, METHOD, WORLD, num_microbatches=number))(start, rows)
        chex.assert_trees_all_close(jax.device_get(one.params), jax.device_get(other.params), rtol=2e-5, atol=1e-6)
        assert means(metrics) == pytest.approx(means(one_metrics), rel=2e-5)
