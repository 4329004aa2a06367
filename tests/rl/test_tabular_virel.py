"""VIREL on enumerated processes: its gradients are the ELBO's, whose optimum is the optimal policy, and it is found."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.losses import boltzmann_log_policy, virel_elbo
from gempi_jax.rl.tabular import (
    TabularMDP,
    action_values,
    greedy_policy,
    is_optimal,
    optimal_values,
    policy_values,
    random_mdp,
)
from gempi_jax.rl.tabular_virel import (
    Virel,
    VirelTables,
    actor_backup,
    boltzmann_backup,
    critic_temperature,
    virel_beta_step,
    virel_step,
    virel_tables,
)

STATES, ACTIONS = 4, 3
FAST = {"xla_backend_optimization_level": 0}
SEEDS = jnp.arange(5)


def make(seed):
    return random_mdp(jax.random.key(seed), STATES, ACTIONS)


def elbo(mdp, virel, tables, backup, log_policy):
    """(15) with (13) in it, a function of both tables."""
    temperature = critic_temperature(mdp, virel, tables.action_values, backup)
    return virel_elbo(tables.action_values, log_policy, temperature), temperature


@pytest.mark.parametrize("power", [1.5, 2.0])
@pytest.mark.parametrize("backup", [boltzmann_backup, actor_backup])
def test_a_step_follows_the_gradients_of_the_elbo(backup, power):
    # (19) is epsilon, (21) epsilon^2 times the gradient of (15); a rate of 1 shows them as differences.
    virel = Virel(0.7, power, 1.0, 1.0, backup)
    draws = np.random.default_rng(0).normal(size=(2, STATES, ACTIONS))
    tables = VirelTables(*jnp.array(draws, jnp.float32), jnp.float32(0.3))

    @functools.partial(jax.jit, compiler_options=FAST)
    def both(mdp):
        held = backup(tables)

        def objective(logits, values):
            return elbo(mdp, virel, tables._replace(action_values=values), held, jax.nn.log_softmax(logits))

        gradients, temperature = jax.grad(objective, (0, 1), has_aux=True)(tables.logits, tables.action_values)
        return virel_step(mdp, virel, tables), gradients, temperature

    stepped, (of_actor, of_critic), temperature = both(make(0))
    np.testing.assert_allclose(stepped.temperature, temperature, rtol=1e-6)
    np.testing.assert_allclose(stepped.logits - tables.logits, temperature * of_actor, rtol=1e-3, atol=1e-6)
    moved = stepped.action_values - tables.action_values
    np.testing.assert_allclose(moved, temperature**2 * of_critic, rtol=1e-3, atol=1e-5)


def test_the_boltzmann_policy_becomes_greedy_as_the_residual_falls():
    mdp = make(0)
    best = action_values(mdp, optimal_values(mdp))
    noise = jnp.array(np.random.default_rng(0).normal(size=best.shape), jnp.float32)
    temperatures, masses, lost = [], [], []
    for size in (3.0, 1.0, 0.3, 0.1, 0.01):
        values, temperature = best + size * noise, jnp.float32(1.0)
        # (13) defines epsilon by a policy that has it: iterated until it is its own.
        for _ in range(30):
            policy = boltzmann_log_policy(values, temperature)
            temperature = critic_temperature(mdp, Virel(), values, policy)
        temperatures.append(temperature)
        masses.append(jnp.exp(policy.max(-1)).min())
        lost.append(jnp.max(optimal_values(mdp) - policy_values(mdp, policy)))
    assert np.all(np.diff(temperatures) < 0)
    # epsilon falls with the square of the error, and so below any gap between two actions.
    assert temperatures[-1] < 2e-3 * temperatures[1]
    assert masses[0] < 0.5
    np.testing.assert_allclose(masses[-1], 1.0, atol=1e-3)
    np.testing.assert_allclose(lost[-1], 0.0, atol=1e-3)


def test_the_elbo_is_greatest_at_the_optimal_policy_of_all():
    # Of critics without error, one for each policy, (15) is E[Q^pi] over the least epsilon there is.
    mdp, virel = make(1), Virel(backup=actor_backup)
    policies = jnp.stack([jnp.where(jax.nn.one_hot(jnp.array(p), ACTIONS) > 0, 0.0, -jnp.inf) for p in _policies()])

    @functools.partial(jax.jit, compiler_options=FAST)
    @jax.vmap
    def bound(log_policy):
        values = action_values(mdp, policy_values(mdp, log_policy))
        # Rounding of a residual is no error: its square stays below the least temperature.
        found, temperature = elbo(mdp, virel, VirelTables(values, values, 1.0), log_policy, log_policy)
        return found, temperature, policy_values(mdp, log_policy).mean()

    found, temperatures, worth = bound(policies)
    np.testing.assert_allclose(temperatures, temperatures[0], rtol=1e-6)
    best = int(jnp.argmax(found))
    assert best == int(jnp.argmax(worth))
    assert is_optimal(mdp, policies[best], optimal_values(mdp))


def _policies():
    return list(itertools.product(range(ACTIONS), repeat=STATES))


def test_the_elbo_is_greatest_at_the_optimal_critic():
    # Around Q* and its greedy policy every other critic, and every other actor, has a lower bound.
    mdp, virel = make(2), Virel()
    best = action_values(mdp, optimal_values(mdp))
    start = VirelTables(best, best, jnp.float32(1e-8))
    held, greedy = boltzmann_backup(start), greedy_policy(best)

    @functools.partial(jax.jit, compiler_options=FAST)
    def at(values, log_policy):
        return elbo(mdp, virel, start._replace(action_values=values), held, log_policy)[0]

    highest, generator = float(at(best, greedy)), np.random.default_rng(0)
    for size in (0.01, 0.1, 1.0):
        for _ in range(5):
            noise = jnp.array(generator.normal(size=best.shape), jnp.float32)
            assert at(best + size * noise, greedy) < highest
            assert at(best, boltzmann_log_policy(best + noise, 0.3)) < highest
    # Optimism, too: all values higher by a constant are no longer consistent.
    assert at(best + 0.1, greedy) < highest


@functools.cache
def learnt(backup):
    """(18) and (20) for long, on five processes."""

    @functools.partial(jax.jit, compiler_options=FAST)
    @jax.vmap
    def run(seed):
        mdp = make(seed)
        virel = Virel(1.0, 2.0, 12.0, 0.2, backup)

        def step(tables, _):
            tables = virel_step(mdp, virel, tables)
            return tables, tables.temperature

        tables, temperatures = jax.lax.scan(step, virel_tables(mdp, 1.0), length=8000)
        return tables, temperatures, mdp

    return run(SEEDS)


@pytest.mark.parametrize("backup", [boltzmann_backup, actor_backup])
def test_both_steps_together_find_the_optimal_policy(backup):
    tables, temperatures, mdps = learnt(backup)
    for seed in range(len(SEEDS)):
        mdp, of_seed = jax.tree.map(lambda x, seed=seed: x[seed], (mdps, tables))
        best = optimal_values(mdp)
        assert is_optimal(mdp, of_seed.log_policy, best)
        np.testing.assert_allclose(policy_values(mdp, of_seed.log_policy), best, rtol=1e-3)
        np.testing.assert_allclose(of_seed.action_values, action_values(mdp, best), rtol=1e-2)
        np.testing.assert_allclose(policy_values(mdp, boltzmann_backup(of_seed)), best, rtol=1e-4)
    assert np.all(temperatures[:, -1] < 1e-4 * temperatures[:, 0])


def test_where_values_are_negative_the_critic_flees():
    # Why rewards have to be above 0: (21) then raises the error of the critic.
    mdp = make(0)
    mdp = mdp._replace(rewards=mdp.rewards - 1.0)
    step = jax.jit(lambda tables: virel_step(mdp, Virel(critic_rate=0.2), tables), compiler_options=FAST)
    tables = virel_tables(mdp, -1.0)
    temperatures = []
    for _ in range(30):
        tables = step(tables)
        temperatures.append(float(tables.temperature))
    assert temperatures[-1] > 2 * temperatures[0]


def test_minibatches_find_it_too_and_noise_keeps_the_actor_soft():
    @functools.partial(jax.jit, compiler_options=FAST)
    @jax.vmap
    def run(seed, mdp):
        def step(tables, number):
            key = jax.random.fold_in(jax.random.key(seed), number)
            tables = virel_beta_step(mdp, Virel(0.3, 2.0, 6.0, 1.0), tables, key, 24)
            return tables, tables.temperature

        tables, temperatures = jax.lax.scan(step, virel_tables(mdp), jnp.arange(3000))
        best = optimal_values(mdp)
        worth = policy_values(mdp, tables.log_policy)
        return is_optimal(mdp, tables.log_policy, best), jnp.max(best - worth), temperatures[-100:].mean()

    noisy = jax.vmap(make)(SEEDS)
    likeliest = jax.nn.one_hot(jnp.argmax(noisy.transitions, axis=-1), STATES)
    optimal, lost, temperatures = run(SEEDS, noisy._replace(transitions=likeliest))
    assert np.all(optimal)
    assert np.all(temperatures < 1e-5)
    np.testing.assert_allclose(lost, 0.0, atol=1e-2)
    _, lost, temperatures = run(SEEDS, noisy)
    assert np.all(temperatures > 1e-3)
    assert np.all(lost < 0.3)


def test_what_ends_an_episode_ends_it_in_samples():
    # One state, one action, reward 1, no next state: Q = 1, whatever gamma is.
    mdp = TabularMDP(jnp.zeros((1, 1, 1)), jnp.ones((1, 1)), jnp.ones(1), 0.9)
    step = jax.jit(lambda t, key: virel_beta_step(mdp, Virel(critic_rate=0.5), t, key, 4), compiler_options=FAST)
    tables = virel_tables(mdp, 3.0)
    for number in range(5):
        tables = step(tables, jax.random.key(number))
    np.testing.assert_allclose(tables.action_values, 1.0, rtol=1e-5)
