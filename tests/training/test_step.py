"""The training step on a policy small enough to know everything about: one categorical distribution per group."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gempi_jax.contracts import Evaluation, Samples
from gempi_jax.em import Dual, Lagrangian
from gempi_jax.methods import Critic, sft, vmpo, with_critic
from gempi_jax.numerics import categorical_kl
from gempi_jax.numerics.advantages import gae
from gempi_jax.training import sharding
from gempi_jax.training.state import TrainState
from gempi_jax.training.step import (
    Optimizers,
    World,
    e_stage,
    finish_iteration,
    init_dual_opt_state,
    m_stage,
    skip_update,
)

GROUPS, SAMPLES, ACTIONS = 16, 4, 5


def evaluate(params, snapshots, batch, key, counts):
    """log softmax(W features) of the actions taken; the divergence is exact."""
    log_q = jax.nn.log_softmax(batch["features"] @ params["policy"]["w"])[:, None]
    log_q = jnp.broadcast_to(log_q, (*batch["actions"].shape, ACTIONS))
    log_probs = jnp.take_along_axis(log_q, batch["actions"][..., None], -1)
    divergence = {}
    if "old" in snapshots:
        log_p = jax.nn.log_softmax(batch["features"] @ snapshots["old"]["w"])[:, None]
        divergence["kl"] = categorical_kl(jnp.broadcast_to(log_p, log_q.shape), log_q)[..., None]
    return Evaluation(log_probs, batch["mask"][..., None], divergence, counts)


WORLD = World(evaluate, lambda batch: (batch["mask"].sum().astype(jnp.float32),) * 2)
OPTIMIZERS = Optimizers(optax.adam(1e-1), {"temperature": optax.adam(1e-1), "multiplier": optax.sgd(1.0)})


def make_batch():
    random = np.random.default_rng(0)
    return {
        "features": jnp.asarray(random.normal(size=(GROUPS, 3)), jnp.float32),
        "actions": jnp.asarray(random.integers(0, ACTIONS, (GROUPS, SAMPLES)), jnp.int32),
        # Ragged on purpose: micro-batches with different numbers of real terms must still add up.
        "mask": jnp.asarray(random.random((GROUPS, SAMPLES)) < 0.7),
    }


def make_samples(rewards=None):
    random = np.random.default_rng(1)
    advantages = random.normal(size=(GROUPS, SAMPLES)) if rewards is None else rewards
    advantages = jnp.asarray(advantages, jnp.float32)
    return Samples(advantages, jnp.zeros_like(advantages), jnp.zeros((1, *advantages.shape)))


def make_state(method):
    random = np.random.default_rng(2)
    policy = {"w": jnp.asarray(random.normal(size=(3, ACTIONS)), jnp.float32)}
    old = {"w": policy["w"] + 0.3}
    old["w"] = old["w"].at[0, 0].add(2.0)
    params, duals, zero = {"policy": policy}, method.init(), jnp.zeros((), jnp.int32)
    return TrainState(
        zero,
        params,
        OPTIMIZERS.params.init(params),
        duals,
        init_dual_opt_state(OPTIMIZERS, duals),
        dict.fromkeys(method.needs.snapshots, old),
        jax.random.key(0),
        zero,
        zero,
    )


def adapt(method, state, samples, **options):
    """The E-stage, its duals put back into the state."""
    duals, opt_state, target = e_stage(method, OPTIMIZERS, state.duals, state.dual_opt_state, samples, **options)
    return state._replace(duals=duals, dual_opt_state=opt_state), target


def iterate(method, num_microbatches, state, batch, samples):
    state, target = adapt(method, state, samples, num_dual_steps=2)
    return m_stage(method, WORLD, OPTIMIZERS, state, batch, target, state.key, num_microbatches=num_microbatches)


def plain(state):
    return jax.tree.map(np.asarray, state._replace(key=jax.random.key_data(state.key)))


@pytest.mark.parametrize("num_microbatches", [2, 4, 16])
def test_micro_batches_change_nothing(num_microbatches):
    method = vmpo(epsilon_alpha=0.01, temperature=Dual(), enforced=Lagrangian())
    state, batch, samples = make_state(method), make_batch(), make_samples()
    whole, whole_metrics = iterate(method, 1, state, batch, samples)
    parts, parts_metrics = iterate(method, num_microbatches, state, batch, samples)
    chex.assert_trees_all_close(plain(whole), plain(parts), rtol=2e-5, atol=1e-6)
    for name, metric in whole_metrics.items():
        np.testing.assert_allclose(metric.mean(), parts_metrics[name].mean(), rtol=2e-5, err_msg=name)


def test_eight_devices_give_what_one_gives():
    method = vmpo(epsilon_alpha=0.01, temperature=Dual(), enforced=Lagrangian())
    state, batch, samples = make_state(method), make_batch(), make_samples()
    one, _ = jax.jit(lambda *args: iterate(method, 2, *args))(state, batch, samples)
    mesh = sharding.make_mesh({"data": 4, "fsdp": 2})
    spread = sharding.put_batch(batch, mesh)
    # The anchors' axis leads; groups come second.
    spread_samples = samples._replace(
        advantages=sharding.put_batch(samples.advantages, mesh),
        sampler_log_probs=sharding.put_batch(samples.sampler_log_probs, mesh),
    )
    state = jax.device_put(state, sharding.state_shardings(state, mesh))
    eight, _ = jax.jit(lambda *args: iterate(method, 2, *args))(state, spread, spread_samples)
    chex.assert_trees_all_close(plain(one), plain(eight), rtol=2e-5, atol=1e-6)


def test_a_stage_moves_only_its_own_duals():
    method = vmpo(epsilon_alpha=0.01, temperature=Dual(), enforced=Lagrangian())
    before, samples = make_state(method), make_samples()
    after_e, target = adapt(method, before, samples)
    assert float(after_e.duals["temperature"][0]) != float(before.duals["temperature"][0])
    assert float(after_e.duals["multiplier/kl"]) == float(before.duals["multiplier/kl"])
    after_m, _ = m_stage(method, WORLD, OPTIMIZERS, after_e, make_batch(), target, before.key)
    assert float(after_m.duals["temperature"][0]) == float(after_e.duals["temperature"][0])
    # D_M is far beyond its budget here (pi_k differs by 2 in a weight), so (2) raises alpha.
    assert float(after_m.duals["multiplier/kl"]) > float(before.duals["multiplier/kl"])


@pytest.mark.parametrize(("place", "bad"), [("features", np.nan), ("features", np.inf), ("weights", np.inf)])
def test_an_update_that_is_not_finite_is_skipped_and_counted(place, bad):
    method = vmpo(epsilon_alpha=0.01, temperature=Dual(), enforced=Lagrangian())
    state, batch, samples = make_state(method), make_batch(), make_samples()
    _, target = adapt(method, state, samples)
    broken = batch
    if place == "features":
        broken = {**batch, "features": batch["features"].at[3, 1].set(bad)}
    else:
        target = target._replace(examples={"weights": target.weights.at[0, 0].set(bad)})
    skipped, metrics = m_stage(method, WORLD, OPTIMIZERS, state, broken, target, state.key)
    chex.assert_trees_all_equal(plain(skipped), plain(state._replace(skipped=jnp.int32(1))))
    assert metrics["mstep/skipped_fraction"].mean() == 1
    # The next good one goes through.
    _, target = adapt(method, state, samples)
    good, metrics = m_stage(method, WORLD, OPTIMIZERS, skipped, batch, target, state.key)
    assert (int(good.skipped), float(metrics["mstep/skipped_fraction"].mean())) == (1, 0)
    assert np.any(np.asarray(good.params["policy"]["w"]) != np.asarray(state.params["policy"]["w"]))


def test_without_a_signal_only_the_value_moves():
    # Momentum from an iteration before, pi_t elsewhere, and a multiplier that a D_M above its budget would raise.
    method, batch = vmpo(epsilon_alpha=0.01, temperature=Dual(), enforced=Lagrangian()), make_batch()
    method = with_critic(method, Critic(gae(1.0)))
    parts = {"policy": optax.adam(1e-1), "value": optax.adam(1e-2)}
    optimizers = OPTIMIZERS._replace(params=optax.partition(parts, lambda tree: {key: key for key in tree}))
    state = make_state(method)
    params = {**state.params, "value": {"policy": jnp.ones(2)}}
    state = state._replace(params=params, opt_state=optimizers.params.init(params))

    def with_values(params, *args):
        values = jnp.full((GROUPS, SAMPLES), params["value"]["policy"].sum())
        return evaluate(params, *args)._replace(values=values)

    @jax.jit
    def run(state, samples):
        duals, dual_opt_state, target = e_stage(
            method, optimizers, state.duals, state.dual_opt_state, samples, num_dual_steps=2
        )
        state = state._replace(duals=duals, dual_opt_state=dual_opt_state)
        world = WORLD._replace(evaluate=with_values)
        return m_stage(method, world, optimizers, state, batch, target, state.key)[0]

    def fit_to_zero(**changes):
        zeros = jnp.zeros((GROUPS, SAMPLES))
        return make_samples(**changes)._replace(values=zeros, value_targets=zeros)

    first = run(state, fit_to_zero())
    assert np.any(first.params["policy"]["w"] != state.params["policy"]["w"])
    assert float(first.duals["temperature"][0]) != 1.0
    second = run(first, fit_to_zero(rewards=np.full((GROUPS, SAMPLES), 0.1)))
    for name in ("duals", "dual_opt_state", "snapshots", "skipped"):
        chex.assert_trees_all_equal(getattr(second, name), getattr(first, name))
    chex.assert_trees_all_equal(second.params["policy"], first.params["policy"])
    inner = [state.opt_state.inner_states for state in (first, second)]
    chex.assert_trees_all_equal(inner[0]["policy"], inner[1]["policy"])
    # Adam's second step on its own momentum.
    assert np.all(np.asarray(second.params["value"]["policy"]) < np.asarray(first.params["value"]["policy"]))
    # The next iteration with a signal goes on from there.
    third = run(second, fit_to_zero())
    assert np.any(third.params["policy"]["w"] != second.params["policy"]["w"])


def test_sft_is_maximum_likelihood():
    # With m = 0 the loss is -(1/N) sum_i log pi(a_i): its gradient in the logits is softmax - one-hot.
    method = sft()
    state, batch = make_state(method), make_batch()
    batch = {**batch, "mask": jnp.ones((GROUPS, SAMPLES), bool)}
    samples = make_samples()._replace(anchor_log_probs=jnp.zeros((0, GROUPS, SAMPLES)))
    _, target = adapt(method, state, samples)

    def loss(params):
        log_q = jax.nn.log_softmax(batch["features"] @ params["policy"]["w"])[:, None]
        chosen = jnp.take_along_axis(
            jnp.broadcast_to(log_q, (GROUPS, SAMPLES, ACTIONS)), batch["actions"][..., None], -1
        )
        return -chosen.mean()

    grads = jax.grad(loss)(state.params)
    updates, _ = OPTIMIZERS.params.update(grads, state.opt_state, state.params)
    expected = optax.apply_updates(state.params, updates)
    updated, metrics = m_stage(method, WORLD, OPTIMIZERS, state, batch, target, state.key)
    np.testing.assert_allclose(metrics["loss"].mean(), loss(state.params), rtol=1e-6)
    chex.assert_trees_all_close(updated.params, expected, rtol=1e-5)


def test_pi_t_is_refreshed_every_period():
    method = vmpo(temperature=Dual(), enforced=Lagrangian())
    state = make_state(method)
    stale, fresh = state.snapshots["old"]["w"], state.params["policy"]["w"]
    first = finish_iteration(state, old_period=2)
    np.testing.assert_array_equal(first.snapshots["old"]["w"], stale)
    second = finish_iteration(first, old_period=2)
    np.testing.assert_array_equal(second.snapshots["old"]["w"], fresh)
    assert int(second.step) == 2
    averaged = finish_iteration(state, old_ema_decay=0.75)
    np.testing.assert_allclose(averaged.snapshots["old"]["w"], 0.75 * stale + 0.25 * fresh, rtol=1e-6)


def test_updates_are_counted_and_iterations_in_a_row():
    # Eight updates of one iteration are one iteration.
    state = make_state(sft())
    for _ in range(8):
        state = skip_update(state)
    assert (int(state.skipped), int(state.skipped_in_a_row)) == (8, 0)
    state = finish_iteration(state, True)
    assert (int(state.skipped), int(state.skipped_in_a_row)) == (8, 1)
    assert int(finish_iteration(state, True).skipped_in_a_row) == 2
    assert int(finish_iteration(state, jnp.array(False)).skipped_in_a_row) == 0
