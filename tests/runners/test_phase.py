"""The stages of an iteration on a decoder of a few hundred parameters: what a batch tells which part of them."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.llm import arithmetic
from gempi_jax.em import GempiSpec, TopK
from gempi_jax.methods import METHODS, from_spec
from gempi_jax.models import Decoder, DecoderConfig, ValueHead
from gempi_jax.runners import stages
from gempi_jax.runners.batch import Batch
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.compiled import Compiled
from gempi_jax.runners.data import Prompts, Source
from gempi_jax.runners.llm import run
from gempi_jax.runners.networks import Policy
from gempi_jax.runners.optimizers import build_optimizers
from gempi_jax.runners.phase import Iteration
from gempi_jax.runners.phase import begin as begin_phase
from gempi_jax.runners.phaseparts import phase_method
from gempi_jax.runners.plan import Plan
from gempi_jax.runners.policy import load_start
from gempi_jax.runners.settings import OptimizerSettings, PhaseSettings
from gempi_jax.runners.tasks import load_rewards, load_task
from gempi_jax.training import sharding
from gempi_jax.training.state import TrainState

MODEL = Decoder(DecoderConfig(vocab_size=11, hidden_size=8, intermediate_size=12, num_layers=1, num_heads=2))


def one_device(tree):
    return jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), tree)


RESOURCES = stages.Resources(
    policy=Policy(MODEL, ValueHead()),
    frozen={},
    ends=SimpleNamespace(eos_ids=(0,), stops=None, stop_sequences=()),
    pad_id=0,
    place=jax.device_put,
    shardings=one_device,
    preemption=SimpleNamespace(poll=lambda: None),
    dropout=False,
)


def make_batch(rewards, *, log_probs=None):
    """Random prompts of two tokens, and completions of two."""
    groups, samples = rewards.shape
    random = np.random.default_rng(0)
    tokens = random.integers(1, 11, (groups, samples + 1, 2)).astype(np.int32)
    shape = (groups, samples, 2)
    return Batch(
        tokens[:, 0],
        np.full(groups, 2, np.int32),
        tokens[:, 1:],
        np.ones(shape, bool),
        np.zeros(shape, np.float32),
        np.full(shape, -1.0, np.float32),
        rewards.astype(np.float32),
        np.arange(groups, dtype=np.int32),
        log_probs,
    )


class OneBatch(Source):
    """A source that scores the same completions afresh in every iteration."""

    num_dropped = num_truncated = num_straddling = 0

    def __init__(self, batch, draw):
        self.batch, self.draw = batch, draw

    def prompts(self, step):
        return Prompts(self.batch.prompts, self.batch.prompt_lengths, []), np.array([step])

    def completions(self, prompts, index):
        return self.batch._replace(rewards=self.draw(int(index[0]))), 1.0


def begin(phase, method, params):
    """The stages of a phase, and the state it begins in."""
    optimizers, rate = build_optimizers(phase, "rl", critic=method.needs.critic is not None)
    zero = jnp.zeros((), jnp.int32)
    value = RESOURCES.policy.value_head.init(jax.random.key(1), jnp.zeros((1, 8)))["params"]
    state = TrainState(
        zero, {"policy": params, "value": {"head": value}}, (), {}, {}, {}, jax.random.key(0), zero, zero
    )
    state = begin_phase(method, optimizers, RESOURCES, state)
    return stages.build_stages(phase, method, optimizers, RESOURCES), state, rate


def iterate(phase, method, params, source, count):
    compiled, state, rate = begin(phase, method, params)
    iteration = Iteration("rl", phase, compiled, RESOURCES, source, rate)
    rows = []
    for _ in range(count):
        state, row = iteration(state)
        rows.append(row)
    return state, rows


def test_a_filter_without_anchors_sees_the_rewards(random_params):
    # Best of K: of eight samples the two with the largest rewards, wherever they are.
    rewards = np.array([[0.1, 0.9, 0.2, 0.3], [0.0, 0.4, 0.8, 0.7]])
    phase = PhaseSettings(
        method="sft", batch_prompts=2, num_generations=4, updates_per_epoch=1, old_log_probs="sampler"
    )
    for method, baseline, expected in [
        (from_spec(GempiSpec(filter=TopK(0.25))), "zero", [[0, 0.5, 0, 0], [0, 0, 0.5, 0]]),
        # Less the means of 0.375 and 0.475, 0.525 and 0.325 are the largest still.
        (from_spec(GempiSpec(filter=TopK(0.25))), "group_mean", [[0, 0.5, 0, 0], [0, 0, 0.5, 0]]),
        (METHODS["sft"](), "group_mean", np.full((2, 4), 0.125)),
    ]:
        compiled, state, _ = begin(PhaseSettings(**{**vars(phase), "baseline": baseline}), method, random_params(MODEL))
        _, samples, metrics = compiled.score({}, state, jax.device_put(make_batch(rewards)))
        *_, target, _, _ = compiled.e_step(state.duals, state.dual_opt_state, samples, (), state.key)
        np.testing.assert_allclose(target.weights, expected, err_msg=baseline)
        assert set(metrics) == {"entropy", "sampler_shift"}


def test_demonstrations_need_no_pass_and_no_reward(random_params):
    phase = PhaseSettings(method="sft", source="demonstrations", batch_prompts=2, updates_per_epoch=1)
    compiled, state, _ = begin(phase, METHODS["sft"](), random_params(MODEL))
    scored, samples, metrics = compiled.score({}, state, jax.device_put(make_batch(np.array([[3.0], [5.0]]))))
    assert metrics == {}
    assert not np.any(scored.old_log_probs)
    assert not np.any(samples.advantages)


def test_the_log_probs_that_rows_carry_are_those_of_the_sampler(random_params):
    phase = PhaseSettings(method="dar", source="scored", baseline="zero", batch_prompts=2, updates_per_epoch=1)
    compiled, state, _ = begin(phase, METHODS["dar"](), random_params(MODEL))
    carried = np.array([[-3.0], [-0.5]], np.float32)
    batch = make_batch(np.array([[1.0], [0.0]]), log_probs=carried)
    scored, samples, _ = compiled.score({}, state, jax.device_put(batch))
    np.testing.assert_array_equal(samples.sampler_log_probs, carried)
    np.testing.assert_allclose(samples.anchor_log_probs[1], scored.old_log_probs.sum(-1), rtol=1e-6)
    # Without them b is pi_t, whose own anchor drops out.
    _, samples, _ = compiled.score({}, state, jax.device_put(batch._replace(behaviour_log_probs=None)))
    np.testing.assert_allclose(samples.sampler_log_probs, samples.anchor_log_probs[1], rtol=1e-6)


@pytest.mark.parametrize("num_microbatches", [1, 2])
def test_a_learned_value_is_fitted_on_all_prompts_whatever_the_m_step_keeps(num_microbatches, random_params):
    phase = PhaseSettings(
        method="vmpo",
        method_args={"top_k_fraction": 0.5},
        source="scored",
        baseline="value",
        batch_prompts=256,
        m_step_fraction=0.25,
        updates_per_epoch=2,
        num_microbatches=num_microbatches,
        value_learning_rate=3e-3,
        optimizer=OptimizerSettings(learning_rate=0.0),
    )

    def bernoulli(step):
        return (np.random.default_rng([7, step]).random((256, 1)) < 0.3).astype(np.float32)

    method, batch = phase_method("rl", phase), make_batch(np.zeros((256, 1)))
    state, rows = iterate(phase, method, random_params(MODEL), OneBatch(batch, bernoulli), 150)
    compiled, _, _ = begin(phase, method, random_params(MODEL))
    _, samples, _ = compiled.score({}, state, jax.device_put(batch))
    # Rewards of this batch are 0: its advantages are -V.
    np.testing.assert_allclose(-samples.advantages.mean(), 0.30, atol=0.03)
    # The loss of the best constant, p (1 - p) / 2.
    np.testing.assert_allclose(np.mean([row["value/loss"] for row in rows[-50:]]), 0.105, atol=0.01)
    # V-MPO weighs half of the samples, of which the M-step sees half.
    assert all(0.25 < row["mstep/kept_mass"] < 1 for row in rows)


def test_the_mass_that_the_m_step_keeps_is_logged(random_params):
    # At a fixed temperature of 1 weights are exp(A), of which the three largest are kept.
    rewards = np.array([[2.5], [0.0], [1.0], [0.0], [2.0], [0.0], [0.0], [0.0]], np.float32)
    settings = {"method": "awr", "source": "scored", "baseline": "zero", "batch_prompts": 8, "updates_per_epoch": 1}
    weights = np.exp(rewards)
    for fraction, expected in [(0.375, (np.e**2.5 + np.e**2 + np.e) / weights.sum()), (1.0, 1.0)]:
        phase = PhaseSettings(**settings, m_step_fraction=fraction)
        source = OneBatch(make_batch(rewards), lambda _: rewards)
        _, (row,) = iterate(phase, METHODS["awr"](beta=1.0), random_params(MODEL), source, 1)
        np.testing.assert_allclose(row["mstep/kept_mass"], expected, rtol=1e-5)


def test_all_updates_of_an_iteration_that_fail_are_one_iteration_in_a_row(random_params):
    rewards = np.array([[1.0], [0.0]], np.float32)
    phase = PhaseSettings(
        method="awr", source="scored", baseline="zero", batch_prompts=2, updates_per_epoch=2, num_epochs=2
    )
    source = OneBatch(make_batch(rewards), lambda _: rewards)
    # No likelihood of a policy of NaNs is finite.
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, random_params(MODEL))
    state, rows = iterate(phase, METHODS["awr"](), broken, source, 2)
    assert [row["skipped_updates"] for row in rows] == [4, 8]
    assert int(state.skipped_in_a_row) == 2


def quick_plan(method):
    config = arithmetic.get_config(f"{method},quick")
    settings = settings_from_config(config)
    task, mesh = load_task(settings), sharding.make_mesh({})
    return Plan(settings, task, load_rewards(settings), load_start(settings, task, mesh), mesh)


def test_two_phases_over_the_same_rows_take_them_in_orders_of_their_own():
    first, second = (plan.source for plan in quick_plan("sft")._plans)
    assert len(first.rows) == len(second.rows)
    assert list(first.prompts(0)[1]) != list(second.prompts(0)[1])


def num_bytes(arrays):
    return sum(leaf.nbytes for leaf in arrays if not leaf.is_deleted())


@pytest.mark.parametrize("keep_boundary", [True, False])
def test_an_m_step_has_one_live_state_beside_the_boundary(keep_boundary, tmp_path, monkeypatch):
    config = arithmetic.get_config("vmpo,quick")
    config.unlock()
    config.phases, config.keep_boundary = ("rl",), keep_boundary
    config.rl.update({"num_iterations": 2, "eval_every": 100})
    config.rl.optimizer.warmup_steps = 0
    prepare, before, live = Compiled.prepare, num_bytes(jax.live_arrays()), []
    sizes = set()

    def watched(self, *args):
        # Of the stages, an update alone reads seven things.
        if len(args) == 7:
            live.append(num_bytes(jax.live_arrays()) - before)
        return prepare(self, *args)

    def call(self, state, inner=Iteration.__call__):
        sizes.add(num_bytes(jax.tree.leaves(state._replace(key=()))))
        return inner(self, state)

    monkeypatch.setattr(Compiled, "prepare", watched)
    monkeypatch.setattr(Iteration, "__call__", call)
    run(settings_from_config(config), tmp_path / "run", config.to_dict())
    (size,) = sizes
    states = np.array(live) / size
    assert len(states) == 4
    # A batch of 8 x 4 sequences, what was said of it, hidden states of this narrow model and a few metrics lie beside.
    assert np.all(states > 1 + keep_boundary)
    assert np.all(states < 1 + keep_boundary + 0.35)


@pytest.mark.parametrize(("kl_stop", "moved"), [(1e-9, 1), (None, 4)])
def test_a_kl_stop_ends_the_updates_on_a_batch_and_not_those_on_the_next(kl_stop, moved, random_params):
    # The first update of an iteration sees pi_theta = pi_t; after it every KL is above so small a number.
    phase = PhaseSettings(
        method="ppo", source="scored", batch_prompts=4, updates_per_epoch=2, num_epochs=2, num_generations=2
    )
    method, params = METHODS["ppo"](kl_stop=kl_stop), random_params(MODEL)
    rewards = np.random.default_rng(0).normal(size=(4, 2))
    compiled, state, rate = begin(phase, method, params)
    changes = []

    def update(*args):
        before = np.array(args[1].params["policy"]["embedding"])
        state, metrics, stopped = compiled.update(*args)
        changes.append(bool(np.any(before != np.asarray(state.params["policy"]["embedding"]))))
        return state, metrics, stopped

    recorded = compiled._replace(update=SimpleNamespace(prepare=lambda *args: update))
    iteration = Iteration("rl", phase, recorded, RESOURCES, OneBatch(make_batch(rewards), lambda step: rewards), rate)
    for _ in range(2):
        state, row = iteration(state)
        assert changes == [True] * moved + [False] * (4 - moved)
        assert row.get("mstep/stopped_fraction", 0.0) == 1 - moved / 4
        changes.clear()
