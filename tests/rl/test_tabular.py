"""Enumerated processes against sums by hand and brute force, and EM policy iteration against its theory."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import numerics
from gempi_jax.em import Anchor, Dual, GempiSpec, Solved, TopK
from gempi_jax.rl.em_iteration import em_policy_iteration
from gempi_jax.rl.tabular import (
    TabularMDP,
    action_values,
    check_mdp,
    greedy_policy,
    is_optimal,
    optimal_values,
    policy_return,
    policy_values,
    random_mdp,
    uniform_policy,
)

STATES, ACTIONS, ITERATIONS = 4, 3, 200
# Tiny arrays: compiling is all that these tests cost.
FAST = {"xla_backend_optimization_level": 0}
MDPS = [random_mdp(jax.random.key(seed), STATES, ACTIONS) for seed in range(3)]
BEST = [optimal_values(mdp) for mdp in MDPS]
# In state 0, "stay" pays 1 and "leave" pays 3 and goes to state 1, where both actions pay 0 and the episode ends.
LEAVE = TabularMDP(
    jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]),
    jnp.array([[1.0, 3.0], [0.0, 0.0]]),
    jnp.array([1.0, 0.0]),
    0.5,
)


def exact(mdp):
    """float64 arrays of a process."""
    return (np.asarray(x, np.float64) for x in (mdp.transitions, mdp.rewards))


def soft_values(mdp, log_reference, price):
    """The optimum of V less price KL(pi || pi_ref), by iterating its optimality equation in float64."""
    transitions, rewards = exact(mdp)
    values = np.zeros(STATES)
    for _ in range(400):
        tilted = (rewards + mdp.discount * transitions @ values) / price + np.asarray(log_reference, np.float64)
        values = price * np.logaddexp.reduce(tilted, axis=-1)
    return values


def test_values_by_hand():
    # Staying is worth 1 / (1 - 1/2) = 2, leaving 3 + 0; half of each: V = 1/2 (1 + V / 2) + 1/2 3, so V = 8/3.
    stay = jnp.array([[0.0, -jnp.inf], [0.0, -jnp.inf]])
    np.testing.assert_allclose(policy_values(LEAVE, stay), [2.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(policy_values(LEAVE, uniform_policy(LEAVE)), [8 / 3, 0.0], atol=1e-6)
    np.testing.assert_allclose(optimal_values(LEAVE), [3.0, 0.0], atol=1e-6)
    # Q of what comes before the best: 1 + 3 / 2 and 3.
    np.testing.assert_allclose(action_values(LEAVE, optimal_values(LEAVE))[0], [2.5, 3.0], atol=1e-6)
    np.testing.assert_allclose(policy_return(LEAVE, jnp.array([2.0, 5.0])), 2.0)
    # A price of 1/2 in each state: 1 + V / 2 - 1/2 = V gives 1.
    np.testing.assert_allclose(policy_values(LEAVE, stay, jnp.array([0.5, 0.5])), [1.0, -0.5], atol=1e-6)
    assert is_optimal(LEAVE, greedy_policy(jnp.array([[0.0, 1.0], [0.0, 0.0]])), optimal_values(LEAVE))
    assert not is_optimal(LEAVE, stay, optimal_values(LEAVE))


def test_the_optimum_is_the_best_of_all_policies():
    for mdp, best in zip(MDPS, BEST, strict=True):
        check_mdp(mdp)
        transitions, rewards = exact(mdp)
        found = []
        for policy in itertools.product(range(ACTIONS), repeat=STATES):
            rows, paid = transitions[np.arange(STATES), policy], rewards[np.arange(STATES), policy]
            values = np.zeros(STATES)
            for _ in range(300):
                values = paid + mdp.discount * rows @ values
            found.append(values)
        np.testing.assert_allclose(best, np.max(found, axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transitions": jnp.zeros((2, 2, 3))}, r"transitions has shape \(2, 2, 3\).*give \(2, 2, 2\)"),
        ({"transitions": jnp.ones((2, 2, 2))}, r"sum to at most 1, not 2\.0"),
        ({"initial": jnp.array([0.5, 0.0])}, r"initial sums to 1, not 0\.5"),
        ({"initial": jnp.array([2.0, -1.0])}, r"at least 0, not -1\.0"),
        ({"rewards": jnp.full((2, 2), jnp.nan)}, "rewards must be finite, not nan"),
        ({"discount": 1.0}, r"discount is 1\.0"),
    ],
)
def test_processes_that_are_none_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        check_mdp(LEAVE._replace(**change))


SPECS = {
    "kl": GempiSpec((Anchor("old", 0.2),)),
    "chi_squared": GempiSpec((Anchor("old", 0.2, divergence=numerics.CHI_SQUARED),)),
    "budget": GempiSpec((Anchor("old", budget=0.1),), Solved()),
    "ref": GempiSpec((Anchor("old", 0.2), Anchor("ref", 0.3))),
    "ref by reverse_kl": GempiSpec((Anchor("old", 0.2), Anchor("ref", 0.3, divergence=numerics.REVERSE_KL))),
    "budget and ref": GempiSpec((Anchor("old", budget=0.1), Anchor("ref", 0.3)), Solved()),
}
REFERENCE = jax.nn.log_softmax(jnp.array(np.random.default_rng(1).normal(size=(STATES, ACTIONS)), jnp.float32))


@functools.cache
def iterated(name):
    """Three random processes, each iterated from a policy that is nobody's."""

    @functools.partial(jax.jit, compiler_options=FAST)
    @jax.vmap
    def run(transitions, rewards):
        mdp = TabularMDP(transitions, rewards, MDPS[0].initial)
        return em_policy_iteration(mdp, SPECS[name], REFERENCE, ITERATIONS)

    return run(*(jnp.stack([getattr(mdp, part) for mdp in MDPS]) for part in ("transitions", "rewards")))


@pytest.mark.parametrize("name", SPECS)
def test_every_iteration_is_better_in_every_state(name):
    found, anchors = iterated(name), SPECS[name].anchors
    gains = np.diff(np.asarray(found.objectives, np.float64), axis=1)
    assert np.all(gains > -2e-5), gains.min()
    # pi_k is a candidate of its own E-step: what the target gains pays for lambda D(q || pi_k) in each state.
    old = [anchor.policy for anchor in anchors].index("old")
    moved = anchors[old].divergence(found.log_policies[:, 1:], found.log_policies[:, :-1])
    paid = found.coefficients[..., old, None] * moved
    assert np.all(gains >= np.asarray(paid) - 2e-5), (gains - paid).min()
    assert np.max(paid) > 0.03
    assert np.all(gains[:, 0].max(-1) > 0.05)


@pytest.mark.parametrize("name", ["kl", "chi_squared", "budget"])
def test_without_a_reference_the_limit_is_the_optimal_policy(name):
    found = iterated(name)
    for seed, (mdp, best) in enumerate(zip(MDPS, BEST, strict=True)):
        np.testing.assert_allclose(found.values[seed, -1], best, rtol=1e-4)
        assert is_optimal(mdp, found.log_policies[seed, -1], best)
    np.testing.assert_array_equal(found.values, found.objectives)


def test_as_the_price_falls_an_iteration_is_one_of_policy_iteration():
    mdp = MDPS[0]
    sharp = em_policy_iteration(mdp, GempiSpec((Anchor("old", 1e-5),)), REFERENCE, 1)
    greedy = greedy_policy(action_values(mdp, policy_values(mdp, REFERENCE)))
    np.testing.assert_allclose(np.exp(sharp.log_policies[1]), np.exp(greedy), atol=1e-5)


def test_budgets_are_met():
    for name in ("budget", "budget and ref"):
        found = iterated(name)
        assert np.all(found.divergences[..., 0] <= 0.1 * 1.01)
        np.testing.assert_allclose(found.divergences[:, 0, 0], 0.1, rtol=1e-3)


def test_prices_add_up_over_iterations():
    # pi_k is proportional to pi_0 exp(sum of the A_i / eta): mirror descent.
    mdp, eta = MDPS[0], 0.2
    log_policies = np.asarray(iterated("kl").log_policies[0], np.float64)
    total = np.asarray(REFERENCE, np.float64)
    for k in range(5):
        transitions, rewards = exact(mdp)
        policy = np.exp(log_policies[k])
        rows = np.einsum("sa,sat->st", policy, transitions)
        values = np.linalg.solve(np.eye(STATES) - mdp.discount * rows, (policy * rewards).sum(-1))
        total = total + (rewards + mdp.discount * transitions @ values) / eta
    total = total - np.logaddexp.reduce(total, axis=-1, keepdims=True)
    np.testing.assert_allclose(log_policies[5], total, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["ref", "budget and ref"])
def test_with_a_reference_the_limit_is_the_regularised_optimum(name):
    found = iterated(name)
    for seed, mdp in enumerate(MDPS):
        expected = soft_values(mdp, REFERENCE, 0.3)
        np.testing.assert_allclose(found.objectives[seed, -1], expected, rtol=1e-5)
        # pi* = pi_ref exp((Q* - V*) / lambda).
        transitions, rewards = exact(mdp)
        advantages = rewards + mdp.discount * transitions @ expected - expected[:, None]
        log_policy = np.asarray(REFERENCE) + advantages / 0.3
        np.testing.assert_allclose(found.log_policies[seed, -1], log_policy, atol=2e-3)
    # It gains nothing by more reward alone: there the optimal policy is better.
    assert np.all(found.values[:, -1] > found.objectives[:, -1])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (GempiSpec(), "the spec has no anchors"),
        (GempiSpec((Anchor("mine", 1.0),)), "an anchor 'mine'"),
        (GempiSpec((Anchor("ref", budget=1.0),), Solved()), r"'ref' has a budget of 1\.0"),
        (GempiSpec((Anchor("old", budget=1.0),), Dual()), "temperature is Dual.*Fixed or Solved"),
        (GempiSpec((Anchor("old", 1.0),), filter=TopK(0.5)), "filter is TopK"),
    ],
)
def test_what_an_exact_iteration_does_not_have_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        em_policy_iteration(LEAVE, spec, uniform_policy(LEAVE), 1)
