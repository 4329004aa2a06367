"""VIREL with networks: its first step is the ELBO's gradients, and whole iterations learn."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gempi_jax import methods
from gempi_jax.contracts import Counts
from gempi_jax.losses import expected_values, residual_temperature, virel_elbo
from gempi_jax.methods import Critic, Features, with_critic
from gempi_jax.methods.virel import ElboCritic, ResidualCritic, StateEvaluation, StateSamples, virel
from gempi_jax.models import GRU, ActionValueHead, CategoricalHead, GaussianHead, MLPCore, MLPTorso, ValueHead
from gempi_jax.numerics.advantages import gae
from gempi_jax.numerics.keys import named_key
from gempi_jax.rl import Continuous, Discrete, episodic
from gempi_jax.rl.action_values import ActionValueAgent
from gempi_jax.rl.agent import Agent, Trunk
from gempi_jax.rl.unroll import unroll
from gempi_jax.runners.control import Control
from gempi_jax.runners.virel import check_virel, initial_virel_state, iterate_virel, make_state_samples
from gempi_jax.training.learn import Passes
from gempi_jax.training.step import Optimizers

TWO = Discrete(2)
TWICE = Passes(updates_per_epoch=2, num_epochs=2)
# Tiny arrays: compiling is all that these tests cost.
FAST = {"xla_backend_optimization_level": 0}


def signs(actions=TWO):
    """A sign is shown and pays when it is answered; episodes have three steps."""

    def observe(sign):
        return jnp.stack([sign, jnp.float32(1.0)])

    def reset(key):
        sign = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        return sign, observe(sign)

    def transition(key, sign, action):
        paid = jnp.where(action == (sign > 0), 1.0, 0.0) if isinstance(actions, Discrete) else action[0]
        then, seen = reset(key)
        return then, seen, paid, jnp.bool_(False)

    return episodic(
        "signs", observation_shape=(2,), actions=actions, max_episode_steps=3, reset=reset, transition=transition
    )


def make(method, *, core=MLPCore, optimizer=None, passes=TWICE, number=16):
    def trunk():
        return Trunk(MLPTorso((8,), jnp.tanh), core())

    agent = ActionValueAgent(trunk(), CategoricalHead(2), ActionValueHead(2), trunk())
    return Control(agent, signs(), method, Optimizers(optimizer or optax.adam(0.03), {}), 4, number, passes)


@pytest.mark.parametrize("critic", [ResidualCritic(), ElboCritic()])
def test_it_learns_to_answer(critic):
    control = make(virel(0.5, gamma=0.8, critic=critic))

    @functools.partial(jax.jit, compiler_options=FAST)
    @jax.vmap
    def run(key):
        state = initial_virel_state(control, key)
        return jax.lax.scan(lambda state, _: iterate_virel(control, state), state, length=60)

    state, metrics = run(jax.vmap(jax.random.key)(jnp.arange(2)))
    rewards = np.asarray(metrics["reward"].sum / metrics["reward"].weight)
    assert np.all(rewards[:, 0] < 0.75)
    assert np.all(rewards[:, -5:].mean(axis=1) > 0.85), rewards[:, -5:]
    np.testing.assert_allclose(metrics["mstep/skipped_fraction"].sum, 0.0)
    # The critic's error falls and with it the temperature, which the state keeps.
    temperatures = np.asarray(metrics["estep/temperature"].sum)
    assert np.all(temperatures[:, -1] < 0.5 * temperatures[:, 0])
    np.testing.assert_array_equal(state.method.temperature, temperatures[:, -1])
    np.testing.assert_array_equal(state.step, 60)


def test_the_first_update_is_the_gradients_of_the_elbo():
    # With a rate of 1 the step is epsilon times the gradient of (15) in theta, epsilon^2 times that in omega.
    control = make(virel(0.7, 1.5, 0.8, ElboCritic()), optimizer=optax.sgd(1.0), passes=Passes())
    agent = control.agent

    # Some way on, where values are no longer near 0.
    state = jax.jit(lambda key: initial_virel_state(control, key), compiler_options=FAST)(jax.random.key(0))
    value = state.params["value"] | {"head": jax.tree.map(lambda x: x + 0.5, state.params["value"]["head"])}
    state = state._replace(params=state.params | {"value": value})

    @functools.partial(jax.jit, compiler_options=FAST)
    def gradients(state):
        key = named_key(named_key(state.key, "iteration", state.step), "unroll")
        _, steps, _ = unroll(agent, control.environment, state.params, state.world, key, 4)

        def elbo(params):
            values = agent.action_values(params, steps.seen, steps.memories)
            policy, *_ = agent.act(params["policy"], steps.seen, steps.memories.policy)
            ended = np.zeros((16, 4), bool)
            ended[:, 2] = True
            # T has the policy that acted; the third step ends the episode, the fourth the unroll.
            then = expected_values(steps.policy.log_probs, values)
            then = jnp.stack([then[:, 1], then[:, 2], steps.next_values[:, 2], steps.next_values[:, 3]], axis=1)
            taken = jnp.where(steps.actions == 1, values[..., 1], values[..., 0])
            temperature = residual_temperature(steps.rewards + 0.8 * then - taken, 0.7, 1.5)
            return virel_elbo(values, policy.log_probs, temperature), temperature

        found, temperature = jax.grad(elbo, has_aux=True)(state.params)
        return found, temperature, steps.truncated

    after = jax.jit(lambda state: iterate_virel(control, state)[0], compiler_options=FAST)(state)
    found, temperature, truncated = gradients(state)
    np.testing.assert_array_equal(truncated[0], [False, False, True, False])
    np.testing.assert_allclose(after.method.temperature, temperature, rtol=1e-5)
    for part, factor in (("policy", temperature), ("value", temperature**2)):
        moved = jax.tree.map(jnp.subtract, after.params[part], state.params[part])
        expected = jax.tree.map(lambda x, factor=factor: factor * x, found[part])
        assert optax.tree.norm(expected) > 1e-3
        chex.assert_trees_all_close(moved, expected, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("critic", [ResidualCritic(0.5), ElboCritic()])
def test_parts_of_an_update_add_up(critic):
    # The products of means in (21) would not: what is held is of the whole unroll.
    method, draws = virel(0.3, critic=critic), np.random.default_rng(0)
    values, logits = (jnp.array(draws.normal(size=(4, 3, 2)), jnp.float32) for _ in range(2))
    log_policy, rewards = jax.nn.log_softmax(logits), jnp.array(draws.uniform(size=(4, 3)), jnp.float32)
    goes_on = jnp.array([[True, False, False]] * 4)
    samples = StateSamples(values, log_policy, (rewards > 0.5) * 1, rewards, 0.9 * jnp.ones((4, 3)), goes_on, rewards)
    counts = Counts(jnp.float32(12.0), jnp.float32(12.0))

    @functools.partial(jax.jit, compiler_options=FAST)
    def both(values):
        target = method.e_step({}, samples)

        def loss(values, units):
            examples = jax.tree.map(lambda x: x[units], target.examples)
            evaluation = StateEvaluation(values[units], log_policy[units], counts)
            return method.m_step({}, target._replace(examples=examples), evaluation).loss

        return [jax.value_and_grad(loss)(values, units) for units in (slice(4), slice(1), slice(1, 4))]

    whole, *parts = both(values + 0.1)
    chex.assert_trees_all_close(whole, jax.tree.map(jnp.add, *parts), rtol=1e-5, atol=1e-6)


def test_the_critic_is_read_as_it_was_when_it_acted():
    control = make(virel(), core=lambda: GRU(4), number=3)
    state = jax.jit(lambda key: initial_virel_state(control, key), compiler_options=FAST)(jax.random.key(0))

    @functools.partial(jax.jit, compiler_options=FAST)
    def samples(state):
        actors, *_ = unroll(control.agent, control.environment, state.params, state.world, state.key, 4)
        _, steps, _ = unroll(control.agent, control.environment, state.params, actors, state.key, 4)
        return make_state_samples(control, state.params, steps), steps

    found, steps = samples(state)
    values = expected_values(found.log_policy, found.action_values)
    np.testing.assert_allclose(values, steps.values, atol=1e-5)
    # In the middle of an episode V of what follows is V of the next step; where it is cut off, another.
    follows = np.asarray(~(steps.terminated | steps.truncated))[:, :-1]
    np.testing.assert_allclose(found.next_values[:, :-1][follows], values[:, 1:][follows], atol=1e-5)
    assert np.all(np.abs(found.next_values[:, :-1] - values[:, 1:])[~follows] > 1e-5)


def test_a_target_by_hand():
    # Q = (1, 3) then (2, 0), pi uniform, actions 1 and 0, rewards 1 and 2, gamma 1/2, then an end:
    # V = 2, 1; targets 1 + 1/2 and 2; residuals -3/2 and 0; epsilon 2 (9/4 + 0) / 2, E[Q] = 3/2.
    method = virel(2.0, gamma=0.5)
    half = jnp.full((1, 2, 2), -jnp.log(2.0))
    values = jnp.array([[[1.0, 3.0], [2.0, 0.0]]])
    arrays = (jnp.array([[1, 0]]), jnp.array([[1.0, 2.0]]), jnp.array([[0.5, 0.0]]), jnp.array([[True, False]]))
    samples = StateSamples(values, half, *arrays, jnp.array([[1.0, 9.0]]))
    target = method.e_step({}, samples)
    np.testing.assert_allclose(target.examples["targets"], [[1.5, 2.0]])
    np.testing.assert_allclose(target.state, [2.25, 1.5])
    # Actor: -(mean V + epsilon log 2); critic: 9 / 8 of half of the update's terms.
    evaluation = StateEvaluation(values, half, Counts(jnp.float32(4.0), jnp.float32(4.0)))
    loss, _ = method.m_step({}, target, evaluation)
    np.testing.assert_allclose(loss, 0.5 * (-(1.5 + 2.25 * np.log(2.0)) + 1.125), rtol=1e-6)


CONTROL = make(virel())
PLAIN = Agent(CONTROL.agent.trunk, CategoricalHead(2), value_trunk=CONTROL.agent.trunk)
OTHER = with_critic(methods.awr(), Critic(gae(0.9), 0.9, Features.OWN))


@pytest.mark.parametrize(
    ("control", "message"),
    [
        (CONTROL._replace(environment=signs(Continuous((1,)))), "signs has Continuous.*discrete"),
        (CONTROL._replace(agent=PLAIN), "the agent is a Agent with a ValueHead; give an ActionValueAgent"),
        (CONTROL._replace(agent=CONTROL.agent._replace(value_head=ValueHead())), "ActionValueAgent with a ValueHead"),
        (CONTROL._replace(agent=CONTROL.agent._replace(value_head=ActionValueHead(3))), "has 3 actions.*give 2"),
        (CONTROL._replace(agent=CONTROL.agent._replace(value_trunk=None)), "no value_trunk"),
        (CONTROL._replace(method=OTHER), "the method is another one"),
        (CONTROL._replace(agent=CONTROL.agent._replace(head=GaussianHead(1))), "makes a Gaussian"),
        (CONTROL._replace(old_period=2), "old_period is 2"),
    ],
)
def test_what_virel_is_not_is_refused(control, message):
    with pytest.raises(ValueError, match=message):
        initial_virel_state(control, jax.random.key(0))
    check_virel(CONTROL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, r"scale is 0\.0"),
        ({"power": 0.5}, r"power is 0\.5"),
        ({"gamma": 1.5}, r"gamma is 1\.5"),
        ({"critic": ResidualCritic(2.0)}, "lam"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        virel(**options)
