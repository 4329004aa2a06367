"""Control iterations as one pure function: any method that has what it needs, scanned and mapped over seeds."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gempi_jax import methods
from gempi_jax.contracts import Counts
from gempi_jax.em import GaussianDivergence, Lagrangian, LineSearch
from gempi_jax.methods import Critic, Features, with_critic
from gempi_jax.models import (
    CategoricalHead,
    Gaussian,
    GaussianHead,
    MLPCore,
    MLPTorso,
    PopArtHead,
    TanhGaussianHead,
    gtrxl,
)
from gempi_jax.numerics import categorical_kl, gaussian_kl
from gempi_jax.numerics.advantages import gae
from gempi_jax.rl import Continuous, Discrete, episodic
from gempi_jax.rl.agent import Agent, Trunk
from gempi_jax.rl.unroll import unroll
from gempi_jax.runners.control import Control, ControlWorld, initial_state, iterate, make_samples, measure
from gempi_jax.runners.controlparts import check_method
from gempi_jax.training.learn import Passes
from gempi_jax.training.step import Optimizers

TWO = Discrete(2)
ADAM = optax.adam(0.05)
# Tiny arrays: compiling is all that these tests cost.
FAST = {"xla_backend_optimization_level": 0}
# What is solved here is solved for good: a search that lengthened a step, too, would walk on with the noise.
SHORTENS = LineSearch(1.0)
CRITIC = Critic(gae(0.95), 0.99, Features.SHARED)


def signs(actions):
    """A sign is shown and pays when it is answered; episodes have three steps."""

    def observe(sign):
        return jnp.stack([sign, jnp.float32(1.0)])

    def reset(key):
        sign = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        return sign, observe(sign)

    def transition(key, sign, action):
        if isinstance(actions, Discrete):
            paid = jnp.where(action == (sign > 0), 1.0, 0.0)
        else:
            paid = -jnp.square(action[0] - 0.5 * sign)
        then, seen = reset(key)
        return then, seen, paid, jnp.bool_(False)

    return episodic(
        "signs", observation_shape=(2,), actions=actions, max_episode_steps=3, reset=reset, transition=transition
    )


def make(method, *, actions=TWO, own=False, core=MLPCore, optimizer=ADAM, **settings):
    head = CategoricalHead(2) if isinstance(actions, Discrete) else GaussianHead(1)

    def trunk():
        return Trunk(MLPTorso((8,), jnp.tanh), core())

    agent = Agent(trunk(), head, value_trunk=trunk() if own else None)
    duals = dict.fromkeys(("temperature", "multiplier"), optax.adam(1e-2))
    options = {"unroll_length": 4, "num_environments": 16, "passes": Passes(0, 2, 2)} | settings
    return Control(agent, signs(actions), method, Optimizers(optimizer, duals), **options)


def learnt(control, iterations, seeds=2):
    """Mean reward of the last iteration, by seed, and metrics."""

    @functools.partial(jax.jit, compiler_options=FAST)
    @jax.vmap
    def run(key):
        state, metrics = jax.lax.scan(
            lambda state, _: iterate(control, state), initial_state(control, key), length=iterations
        )
        return state, metrics

    state, metrics = run(jax.vmap(jax.random.key)(jnp.arange(seeds)))
    rewards = metrics["reward"].sum / metrics["reward"].weight
    return state, np.asarray(rewards), metrics


METHODS = {
    "vmpo": lambda: with_critic(methods.vmpo(0.1, 0.1, 0.5, enforced=SHORTENS), CRITIC),
    "vmpo_lagrangian": lambda: with_critic(methods.vmpo(0.1, 0.1, 0.5, enforced=Lagrangian(1.0)), CRITIC),
    "awr": lambda: with_critic(methods.awr(), CRITIC),
    "dar": lambda: with_critic(methods.dar(), CRITIC),
    "reinforce": lambda: with_critic(methods.reinforce(), CRITIC),
    "ppo": lambda: methods.ppo(beta=0.0, gamma=0.99, entropy_coefficient=0.01, features=Features.SHARED),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_of_the_table_learn_to_answer(name):
    _, rewards, metrics = learnt(make(METHODS[name]()), 30)
    assert np.all(rewards[:, 0] < 0.7)
    assert np.all(rewards[:, -3:].mean(axis=1) > 0.9), rewards[:, -3:]
    np.testing.assert_allclose(metrics["mstep/skipped_fraction"].sum, 0.0)
    lengths = metrics["episode/length"]
    np.testing.assert_allclose(lengths.sum / lengths.weight, 3.0)


def test_a_gaussian_policy_keeps_both_budgets():
    region = GaussianDivergence(gaussian_kl)
    method = methods.vmpo(0.3, (0.05, 0.02), 0.5, trust_region=region, enforced=SHORTENS)
    control = make(with_critic(method, CRITIC), actions=Continuous((1,), -1.0, 1.0), own=False)
    _, rewards, metrics = learnt(control, 60)
    assert np.all(rewards[:, -3:].mean(axis=1) > rewards[:, :3].mean(axis=1) + 0.3)
    for part in ("mean", "covariance"):
        over = metrics[f"mstep/kl_over_budget/{part}"]
        assert np.all(over.sum / over.weight <= 1.3)


def test_popart_learns_returns_of_any_size_and_never_moves_what_v_says():
    control = make(METHODS["vmpo"]())
    agent = control.agent._replace(value_head=PopArtHead(), popart=0.1)
    control = control._replace(agent=agent)
    state = initial_state(control, jax.random.key(0))
    _, steps, _ = unroll(agent, control.environment, state.params, state.world, jax.random.key(1), 4)
    moved = agent.renormalized(state.params, 1e3 * (1.0 + steps.rewards))
    assert moved["value"]["return_norm"].mean > 100.0
    before = agent.read(state.params, steps.seen, steps.memories).values
    after = agent.read(moved, steps.seen, steps.memories).values
    np.testing.assert_allclose(after, before, atol=1e-3)  # sums of numbers of a thousand, in float32
    # What the critic is fitted to has the size of one.
    assert jnp.max(jnp.abs(agent.normalized(moved, 1e3 * steps.rewards))) < 10.0
    # Adam leaves the statistics where they are: no gradient reaches them.
    state, _ = jax.jit(functools.partial(iterate, control), compiler_options=FAST)(state)
    targets = make_samples(agent, control.method.needs, initial_state(control, jax.random.key(0)), steps).value_targets
    assert state.params["value"]["return_norm"].mean != 0.0
    assert np.isfinite(targets).all()


def test_the_first_pass_is_the_policy_that_acted():
    control = make(
        with_critic(methods.vmpo(enforced=Lagrangian(1.0)), Critic(gae(0.9), 0.9, Features.OWN)),
        own=True,
        core=lambda: gtrxl(8, num_layers=1, mlp_width=8, memory_length=3, unroll_length=4),
    )
    state = jax.jit(lambda key: initial_state(control, key))(jax.random.key(0))

    @jax.jit
    def evaluated(state):
        actors, steps, _ = unroll(control.agent, control.environment, state.params, state.world, state.key, 4)
        _, steps, _ = unroll(control.agent, control.environment, state.params, actors, state.key, 4)
        samples = make_samples(control.agent, control.method.needs, state, steps)
        world = ControlWorld(control.agent, control.method.needs)
        counts = Counts(*world.count(steps))
        return samples, world.evaluate(state.params, state.snapshots, steps, state.key, counts)

    samples, evaluation = evaluated(state)
    np.testing.assert_allclose(evaluation.log_probs[..., 0], samples.sampler_log_probs, atol=1e-5)
    np.testing.assert_allclose(evaluation.values, samples.values, atol=1e-5)
    np.testing.assert_allclose(evaluation.divergence["kl"], 0.0, atol=1e-6)
    np.testing.assert_array_equal(samples.anchor_log_probs[0], samples.sampler_log_probs)


def test_seeds_in_one_program_are_the_seeds_alone():
    # Adam's first steps are signs of gradients, which rounding may turn.
    control = make(METHODS["awr"](), optimizer=optax.sgd(0.05))
    together, *_ = learnt(control, 3, seeds=2)
    alone, *_ = learnt(control, 3, seeds=1)
    first = jax.tree.map(lambda x: x[:1], together)
    chex.assert_trees_all_close(first.params, alone.params, rtol=1e-4, atol=1e-5)


def test_pi_t_acts_for_as_many_iterations_as_it_is_kept():
    own = with_critic(methods.awr(), CRITIC._replace(features=Features.OWN))
    control = make(own, own=True, old_period=3)
    step = jax.jit(lambda state: iterate(control, state)[0])
    state = jax.jit(lambda key: initial_state(control, key))(jax.random.key(0))
    assert "old" in state.snapshots
    for number in range(1, 4):
        old, state = state.snapshots["old"], step(state)
        if number < 3:
            chex.assert_trees_all_equal(state.snapshots["old"], old)
    chex.assert_trees_all_equal(state.snapshots["old"], state.params["policy"])


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (methods.vmpo(), "it has no critic"),
        (methods.grpo(), "it has no critic"),
        (methods.ppo(features=Features.SHARED), "set beta to 0"),
        (methods.ppo(beta=0.0, features=Features.OWN), "no value_trunk"),
        (methods.ppo(beta=0.0), "'detached', and Agent.detached is False"),
    ],
)
def test_what_does_not_serve_control_is_refused(method, message):
    with pytest.raises(ValueError, match=message):
        check_method(method, make(METHODS["awr"]()).agent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c._replace(old_period=2), "old_period is 2, and V reads the features of pi_theta"),
        (lambda c: c._replace(agent=c.agent._replace(head=CategoricalHead(5))), r"Discrete\(n=2\), .*int32\[\] of 5"),
        (lambda c: c._replace(agent=c.agent._replace(head=GaussianHead(1))), r"makes a Gaussian .*float32\[1\]"),
        (lambda c: with_trunk(c, previous=True, num_actions=3), "num_actions=3, and signs has .*; give 2"),
        (lambda c: with_trunk(c, core=gtrxl(8, memory_length=3)), "unroll_length 1, and an unroll has 4 steps"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        initial_state(change(make(METHODS["awr"]())), jax.random.key(0))


def with_trunk(control, **changes):
    agent = control.agent
    return control._replace(agent=agent._replace(trunk=agent.trunk.clone(**changes)))


def test_a_divergence_that_is_not_the_policys_is_refused():
    policy = Gaussian(jnp.zeros((2, 3, 1)), jnp.ones((2, 3, 1)))
    with pytest.raises(ValueError, match="give GaussianDivergence or SampledDivergence"):
        measure(methods.vmpo().needs.trust_region.divergence, policy, policy, jnp.zeros((2, 3, 1)))
    assert methods.vmpo().needs.trust_region.divergence.function is categorical_kl


def test_a_squashed_policy_acts_and_learns_within_its_bounds():
    region = GaussianDivergence(gaussian_kl)
    method = with_critic(methods.vmpo(0.3, (0.05, 0.02), 0.5, trust_region=region, enforced=Lagrangian(1.0)), CRITIC)
    control = make(method, actions=Continuous((1,), -1.0, 1.0))
    control = control._replace(agent=control.agent._replace(head=TanhGaussianHead(1)))
    state = jax.eval_shape(lambda key: initial_state(control, key), jax.random.key(0))
    after, metrics = jax.eval_shape(lambda state: iterate(control, state), state)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert "mstep/kl/covariance" in metrics
