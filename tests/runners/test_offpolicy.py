"""Control with a replay: Q and its targets by hand, the E-step by its formula, and what AWR and MPO learn."""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gempi_jax import methods
from gempi_jax.contracts import Counts
from gempi_jax.em import Dual, GaussianDivergence, Lagrangian
from gempi_jax.methods import with_critic
from gempi_jax.models import (
    GRU,
    CategoricalHead,
    ContinuousValues,
    DiscreteValues,
    Gaussian,
    MLPCore,
    MLPTorso,
    TanhGaussianHead,
)
from gempi_jax.numerics import gaussian_kl, n_step_backup, retrace
from gempi_jax.rl import Continuous
from gempi_jax.rl.agent import Agent, Seen, Trunk
from gempi_jax.rl.replay import Transitions
from gempi_jax.runners import actionvalues
from gempi_jax.runners.actionvalues import QCritic
from gempi_jax.runners.offpolicy import (
    Replayed,
    StateActions,
    StateWorld,
    initial_state,
    iterate_replayed,
    make_state_samples,
)
from gempi_jax.training.learn import Passes
from tests.runners.test_control import ADAM, CRITIC, SHORTENS, TWO, make

# Tiny arrays: compiling is all that these tests cost.
FAST = {"xla_backend_optimization_level": 0}
TWICE = Passes(0, 2, 2)
SIZES = {"capacity": 16, "batch": 16}
UNIT = Continuous((1,), -1.0, 1.0)
GAUSSIAN = GaussianDivergence(gaussian_kl)


def discrete_mpo(**settings):
    # What follows is drawn anew whatever is answered, so that little discount is right, too.
    q = QCritic(DiscreteValues(MLPTorso((16,), jnp.tanh), 2), optax.adam(0.03), 0.5, passes=TWICE)
    method = methods.mpo(0.1, 0.1, temperature=Dual(0.5), enforced=Lagrangian(1.0))
    return Replayed(make(method, **settings), critic=q, **SIZES)


def gaussian_mpo():
    q = QCritic(ContinuousValues(MLPTorso((16,), jnp.tanh), -1.0, 1.0), optax.adam(0.03), 0.5, retrace(), 8, TWICE, 2)
    method = methods.mpo(0.3, (0.05, 0.02), trust_region=GAUSSIAN, enforced=SHORTENS)
    return Replayed(make(method, actions=UNIT), critic=q, **SIZES)


def awr(**settings):
    return Replayed(make(with_critic(methods.awr(), CRITIC), **settings), **SIZES)


@functools.cache
def compiled(build):
    """First states by seed, and their next ones."""
    replayed = build()
    functions = (functools.partial(function, replayed) for function in (initial_state, iterate_replayed))
    return [jax.jit(jax.vmap(function), compiler_options=FAST) for function in functions]


def learnt(build, iterations, *seeds):
    """The state after some iterations, and metrics [seeds, iterations]."""
    begin, go_on = compiled(build)
    state, metrics = begin(jax.vmap(jax.random.key)(jnp.asarray(seeds))), []
    for _ in range(iterations):
        state, now = go_on(state)
        metrics.append(now)
    return state, jax.tree.map(lambda *x: np.stack(x, axis=1), *metrics)


def rewards(metrics):
    return np.asarray(metrics["reward"].sum / metrics["reward"].weight)


@pytest.mark.parametrize("build", [discrete_mpo, awr])
def test_they_learn_to_answer_and_a_seed_is_the_same_whoever_is_beside_it(build):
    state, metrics = learnt(build, 30, 0, 1)
    earned = rewards(metrics)
    assert np.all(earned[:, 0] < 0.7)
    assert np.all(earned[:, -3:].mean(axis=1) > 0.9), earned[:, -3:]
    np.testing.assert_allclose(metrics["mstep/skipped_fraction"].sum, 0.0)
    np.testing.assert_array_equal(state.world.replay.valid, SIZES["capacity"])
    swapped, again = learnt(build, 30, 1, 0), learnt(build, 30, 0, 1)
    for one, other, same in zip(*(jax.tree.leaves(_plain(x)) for x in ((state, metrics), swapped, again)), strict=True):
        np.testing.assert_array_equal(one, same)
        np.testing.assert_array_equal(one, other[::-1])


def _plain(tree):
    """Keys as numbers."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, tree)


def test_gaussian_actions_find_the_sign_within_budgets():
    _, metrics = learnt(gaussian_mpo, 40, 0, 1)
    earned = rewards(metrics)
    assert np.all(earned[:, -5:].mean(axis=1) > earned[:, :5].mean(axis=1) + 0.3), earned
    for part in ("mean", "covariance"):
        over = metrics[f"mstep/kl_over_budget/{part}"]
        assert np.all(over.sum / over.weight <= 1.3)


def test_seeds_in_one_program_are_the_seeds_alone():
    # Not from the first iteration: Adam's first steps are signs of gradients, which rounding may turn.
    before, _ = learnt(awr, 3, 0, 1)
    together, _ = compiled(awr)[1](before)
    one = jax.jit(functools.partial(iterate_replayed, awr()), compiler_options=FAST)
    alone, _ = one(jax.tree.map(lambda x: x[1], before))
    pairs = zip(jax.tree.leaves(_plain(alone)), jax.tree.leaves(_plain(together)), strict=True)
    for leaf, both in pairs:
        np.testing.assert_allclose(both[1], leaf, rtol=1e-4, atol=1e-5)


class Table(nn.Module):
    """Q(s, a) of the state that is the observation's only number."""

    @nn.compact
    def __call__(self, observations, actions):
        rows = self.param("rows", nn.initializers.zeros_init(), (4, 2))
        return jnp.take_along_axis(rows[observations[:, 0].astype(jnp.int32)], actions, axis=-1)


class Plain(nn.Module):
    """The same logits in every state: log 1 and log 3."""

    @nn.compact
    def __call__(self, features):
        return CategoricalHead(2, name="head")(0.0 * features)


ROWS = jnp.asarray([[0.0, 4.0], [8.0, 0.0], [1.0, 2.0], [4.0, -4.0]])
# pi_t answers 1 three times out of four, so that E Q is 3, 2, 1.75 and -2.
LOGITS = jnp.log(jnp.asarray([1.0, 3.0]))
EXPECTED = np.asarray([3.0, 2.0, 1.75, -2.0])
PLAIN = Agent(Trunk(MLPTorso(()), MLPCore(())), Plain())
POLICY = {"trunk": {}, "head": {"head": {"logits": {"kernel": jnp.zeros((1, 2)), "bias": LOGITS}}}}


def of_table(backup=None, **settings):
    critic = QCritic(Table(), optax.sgd(1.0), 0.5, **({} if backup is None else {"backup": backup}), **settings)
    return critic._replace(num_samples=None)


def numbers(values):
    return jnp.asarray([values], jnp.float32)


NEITHER = jnp.zeros((1, 4), bool)
STEPS = Transitions(
    seen=Seen(
        numbers([0, 1, 2, 3])[..., None], jnp.zeros((1, 4), jnp.int32), numbers([0] * 4), jnp.zeros((1, 4), bool)
    ),
    actions=jnp.asarray([[1, 0, 1, 0]]),
    rewards=numbers([1, 2, 3, 4]),
    terminated=jnp.asarray([[False, True, False, False]]),
    truncated=jnp.asarray([[False, False, True, False]]),
    # b was indifferent: pi(a) / b(a) is 3/2 for action 1, 1/2 for action 0.
    log_probs=jnp.log(numbers([0.5] * 4)),
    next_observations=numbers([1, 0, 3, 2])[..., None],
)


def goals_of(critic):
    def goals(key):
        return actionvalues.targets(critic, {"rows": ROWS}, PLAIN, POLICY, TWO, STEPS, key)

    return jax.jit(goals, compiler_options=FAST)(jax.random.key(0))


@pytest.mark.parametrize(
    ("backup", "expected"),
    [
        # r + E Q(s') / 2: 1 + 2/2; a termination is worth 2; 3 - 2/2 at the time-out; 4 + 1.75/2 at the end.
        (n_step_backup(1), [2.0, 2.0, 2.0, 4.875]),
        # Two rewards where the episode goes on: 1 + 2/2 and no more, for it terminates there.
        (n_step_backup(2), [2.0, 2.0, 2.0, 4.875]),
        # c_1 = 1/2: 1 + 1/2 (2 + 1/2 (2 - Q(1, 0) = 8)) = 1 + 1/2 (2 - 3) = 1/2.
        (retrace(1.0), [0.5, 2.0, 2.0, 4.875]),
    ],
)
def test_targets_are_backups_of_the_target_network(backup, expected):
    np.testing.assert_allclose(goals_of(of_table(backup)), [expected], rtol=1e-5)


def test_sampled_expectations_are_means_over_actions_of_the_policy():
    goals = goals_of(of_table()._replace(num_samples=4000))
    # gamma times a standard deviation of at most 4 over sqrt(4000), five times.
    np.testing.assert_allclose(goals, [[2.0, 2.0, 2.0, 4.875]], atol=0.16)


def test_the_fit_goes_to_the_targets_and_the_target_network_waits():
    critic = of_table(period=2)
    fitted = actionvalues.initial(critic, TWO, STEPS.seen, jax.random.key(0))
    goals = numbers([2, -1, 5, 3])
    # Half the squared error, a mean over four states, one step of 1: each Q(s, a) goes a quarter of the way.
    fit = jax.jit(functools.partial(actionvalues.fit, critic), compiler_options=FAST)
    fitted, metrics = fit(fitted, STEPS, goals, jax.random.key(1))
    expected = np.asarray([[0.0, 0.5], [-0.25, 0.0], [0.0, 1.25], [0.75, 0.0]])
    np.testing.assert_allclose(fitted.params["rows"], expected, rtol=1e-6)
    # (4 + 1 + 25 + 9) / 8 before it.
    np.testing.assert_allclose(metrics["value/loss"].sum, 39 / 8, rtol=1e-6)
    for step, rows in ((1, np.zeros((4, 2))), (2, expected)):
        np.testing.assert_allclose(actionvalues.refresh(critic, fitted, jnp.int32(step)).target["rows"], rows)
    # One that is no number leaves Q as it is.
    kept, metrics = fit(fitted, STEPS, goals.at[0, 0].set(jnp.nan), jax.random.key(1))
    np.testing.assert_array_equal(kept.params["rows"], fitted.params["rows"])
    np.testing.assert_array_equal(metrics["value/skipped_fraction"].sum, 1.0)


@functools.cache
def enumerated():
    """All actions of four states under a method whose temperature is solved, and the target on them."""
    control = make(methods.mpo(0.2, 0.1, enforced=Lagrangian(1.0)))._replace(agent=PLAIN)
    replayed = Replayed(control, critic=of_table(), **SIZES)
    seen = actionvalues.by_state(STEPS.seen)
    policy = PLAIN.act(POLICY, seen, ())[0]
    batch = StateActions(seen, actionvalues.draw(replayed.critic, TWO, policy, jax.random.key(0)), policy)
    samples = make_state_samples(replayed, {}, batch, {"rows": ROWS})
    return replayed, batch, jax.jit(control.method.e_step, compiler_options=FAST)({}, samples)


def test_the_e_step_is_the_exact_target_of_each_state():
    _, _, target = enumerated()
    eta = float(target.metrics["estep/temperature"].sum)
    # q = pi_t e^(Q / eta) / Z in each state, which weighs a quarter.
    pi = np.asarray([0.25, 0.75])
    tilted = pi * np.exp(np.asarray(ROWS, np.float64) / eta)
    z = tilted.sum(axis=1, keepdims=True)
    q = tilted / z
    np.testing.assert_allclose(target.weights, q / 4, rtol=1e-4)
    # eta spends the budget in the mean: exact KLs, not those of samples.
    np.testing.assert_allclose(np.sum(q * np.log(q / pi), axis=1).mean(), 0.2, rtol=1e-3)
    np.testing.assert_allclose(target.metrics["estep/log_partition"].sum, np.log(z).mean(), rtol=1e-4)


def test_the_m_step_is_weighted_likelihood_and_the_mean_kl_of_the_states():
    replayed, batch, target = enumerated()
    method = replayed.control.method
    world = StateWorld(PLAIN, method.needs)
    counts = Counts(*world.count(batch))
    moved = jax.tree.map(lambda x: x, POLICY)
    moved["head"]["head"]["logits"]["bias"] = jnp.zeros(2)
    evaluation = world.evaluate({"policy": moved}, {}, batch, jax.random.key(0), counts)
    np.testing.assert_allclose(evaluation.log_probs, np.log(0.5), rtol=1e-6)
    # KL of (1/4, 3/4) and (1/2, 1/2), at every state and beside each of its actions.
    kl = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    np.testing.assert_allclose(evaluation.divergence["kl"], np.full((4, 2, 1), kl), rtol=1e-5)
    metric = world.divergence({"policy": moved}, {}, batch)["kl"]
    np.testing.assert_allclose(metric.mean(), kl, rtol=1e-5)
    duals = method.init()
    loss = method.m_step(duals, target, evaluation).loss
    # Weights sum to 1, alpha is 1 at the start: log 2 + (eps - KL) + KL.
    np.testing.assert_allclose(loss, np.log(2.0) + 0.1, rtol=1e-5)


def test_sampled_actions_are_those_of_pi_t_and_weigh_by_q_alone():
    replayed, batch, _ = enumerated()
    replayed = replayed._replace(critic=replayed.critic._replace(num_samples=4000))
    actions = actionvalues.draw(replayed.critic, TWO, batch.policy, jax.random.key(0))
    assert actions.shape == (4, 4000)
    # Five standard deviations.
    np.testing.assert_allclose(np.mean(actions, axis=1), 0.75, atol=5 * np.sqrt(0.1875 / 4000))
    samples = make_state_samples(replayed, {}, batch._replace(actions=actions[:, :3]), {"rows": ROWS})
    np.testing.assert_array_equal(samples.anchor_log_probs[0], samples.sampler_log_probs)
    expected = np.take_along_axis(np.asarray(ROWS), np.asarray(actions[:, :3]), axis=1)
    np.testing.assert_array_equal(samples.advantages, expected)


def test_what_is_outside_its_bounds_costs_its_distance():
    wide = Continuous((2,), (-1.0, 0.0), (1.0, 2.0))
    control = make(methods.mpo(trust_region=GAUSSIAN, epsilon_bounds=1e-3), actions=UNIT)
    control = control._replace(environment=dataclasses.replace(control.environment, actions=wide))
    network = ContinuousValues(MLPTorso(()), (-1.0, 0.0), (1.0, 2.0))
    replayed = Replayed(control, critic=QCritic(network, ADAM, num_samples=3), **SIZES)
    # Inside; outside by 1 and 2 below, that is sqrt(5); by 3 above in one entry.
    actions = jnp.asarray([[[0.5, 1.0], [-2.0, -2.0], [4.0, 2.0]]])
    seen = Seen(jnp.zeros((1, 1, 2)), actions[:, :1], jnp.zeros((1, 1)), jnp.zeros((1, 1), bool))
    batch = StateActions(seen, actions, Gaussian(jnp.zeros((1, 1, 2)), jnp.ones((1, 1, 2))))
    q = network.init(jax.random.key(0), seen.observations[:, 0], actions)["params"]
    samples = make_state_samples(replayed, {}, batch, q)
    np.testing.assert_allclose(samples.bounds_costs, [[0.0, -np.sqrt(5.0), -3.0]], rtol=1e-6)
    # The standard normal's in two entries.
    squares = np.square(np.asarray(actions)).sum(axis=-1)
    np.testing.assert_allclose(samples.sampler_log_probs, -squares / 2 - np.log(2 * np.pi), rtol=1e-5)


def with_method(method):
    return lambda r: r._replace(control=r.control._replace(method=method))


def of_continuous(head, **settings):
    method = methods.mpo(0.1, 0.1, trust_region=GAUSSIAN, **settings)

    def change(replayed):
        control = make(method, actions=UNIT)
        control = control._replace(agent=control.agent._replace(head=head or control.agent.head))
        return replayed._replace(control=control, critic=replayed.critic._replace(num_samples=4))

    return change


def test_a_squashed_policy_has_no_action_outside():
    replayed = of_continuous(TanhGaussianHead(1))(discrete_mpo())
    network = ContinuousValues(MLPTorso((4,)), -1.0, 1.0)
    replayed = replayed._replace(critic=replayed.critic._replace(network=network))
    state = jax.eval_shape(lambda key: initial_state(replayed, key), jax.random.key(0))
    after, _ = jax.eval_shape(lambda state: iterate_replayed(replayed, state), state)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r._replace(control=make(methods.mpo(), core=lambda: GRU(8))), "GRU in trunk.*give it an MLPCore"),
        (lambda r: r._replace(critic=None), "it has no critic, and returns need one"),
        (with_method(methods.vmpo()), "does not compare actions of one state: use methods.mpo"),
        (with_method(with_critic(methods.mpo(), CRITIC)), "it has V, and Q is given"),
        (with_method(methods.grpo()), "reads the ratio to what acted"),
        (with_method(methods.pmpo(beta=0.0)), r"num_samples is None.*weighs by \[\]"),
        (lambda r: r._replace(critic=r.critic._replace(num_samples=1)), "num_samples is 1.*at least 2"),
        (lambda r: r._replace(critic=r.critic._replace(period=0)), "period is 0"),
        (lambda r: r._replace(critic=r.critic._replace(passes=Passes(0, 7))), "critic.passes makes 7 updates of 64"),
        (lambda r: r._replace(batch=0), "batch is 0"),
        (with_method(methods.mpo(epsilon_bounds=1e-3)), "prices actions outside.*Categorical there are none"),
        (of_continuous(TanhGaussianHead(1), epsilon_bounds=1e-3), "by a TanhGaussian there are none"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        initial_state(change(discrete_mpo()), jax.random.key(0))
