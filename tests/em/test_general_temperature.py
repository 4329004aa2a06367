"""Solved temperatures for any mix of divergences: the primal problem in float64, extremes, derivatives and groups."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from gempi_jax import em, numerics
from gempi_jax.contracts import Samples

K = 8
# Tiny arrays: compiling is all that these tests cost.
FAST = {"xla_backend_optimization_level": 0}
FAMILY = {
    "kl": numerics.KL,
    "reverse_kl": numerics.REVERSE_KL,
    "chi_squared": numerics.CHI_SQUARED,
    "jensen_shannon": numerics.JENSEN_SHANNON,
    "squared_hellinger": numerics.SQUARED_HELLINGER,
    "alpha_-1": numerics.alpha_divergence(-1.0),
}
# f(u) as it would be written down; v log v is 0 at 0.
GENERATORS = {
    "kl": lambda u: u * np.log(u + 1e-300) - u + 1,
    "reverse_kl": lambda u: -np.log(u + 1e-300) + u - 1,
    "chi_squared": lambda u: (u - 1) ** 2 / 2,
    "jensen_shannon": lambda u: (u * np.log(u + 1e-300) - (u + 1) * np.log((u + 1) / 2)) / 2,
    "squared_hellinger": lambda u: (np.sqrt(u) - 1) ** 2 / 2,
    "alpha_-1": lambda u: (1 / (u + 1e-300) + u - 2) / 2,
}
MIXES = [
    ("chi_squared",),
    ("reverse_kl", "jensen_shannon"),
    ("kl", "reverse_kl", "jensen_shannon", "chi_squared"),
]


@functools.cache
def compiled(names):
    """budgets, advantages, ratios -> the solution and log(q* / b) at its coefficients."""
    divergences = tuple(FAMILY[name] for name in names)

    def solve(budgets, advantages, ratios):
        found = em.solve_temperature(budgets, advantages, ratios, divergences=divergences)
        return found, em.target_log_weights(advantages, ratios, found.coefficients, divergences)

    return jax.jit(solve, compiler_options=FAST)


def problem(names, seed):
    """Anchors that are distributions on the samples, so that the KL estimator is the exact KL."""
    generator = np.random.default_rng(seed)
    ratios = 0.15 * generator.normal(size=(len(names), K))
    ratios -= np.log(np.exp(ratios).mean(axis=1, keepdims=True))
    advantages = generator.normal(size=K) * 10 ** generator.uniform(-2, 2)
    budgets = 10 ** generator.uniform(-1.5, -0.5, size=len(names))
    return tuple(np.asarray(x, np.float32) for x in (budgets, advantages, ratios))


def spent(weights, ratios, names):
    """D_j in float64; weights have mean 1."""
    pairs = zip(ratios.astype(np.float64), names, strict=True)
    return np.array([np.mean(np.exp(r) * GENERATORS[name](weights * np.exp(-r))) for r, name in pairs])


def best_gain(budgets, advantages, ratios, names):
    """max E_q[A] subject to the budgets: the primal problem, which knows no dual and no stationarity."""
    found = minimize(
        lambda w: -np.mean(w * advantages),
        np.exp(ratios.mean(axis=0)),
        jac=lambda w: -advantages / K,
        bounds=[(1e-12, K)] * K,
        method="SLSQP",
        constraints=[
            {"type": "eq", "fun": lambda w: np.mean(w) - 1},
            {"type": "ineq", "fun": lambda w: budgets - spent(w, ratios, names)},
        ],
        options={"maxiter": 300, "ftol": 1e-11},
    )
    assert found.success
    return -found.fun


@pytest.mark.parametrize("names", MIXES, ids="+".join)
def test_no_target_within_the_budgets_gains_more(names):
    for seed in range(4):
        budgets, advantages, ratios = problem(names, seed)
        found, log_weights = compiled(names)(budgets, advantages, ratios)
        assert bool(found.feasible)
        assert not bool(found.saturated)
        weights = np.exp(np.asarray(log_weights, np.float64))
        np.testing.assert_allclose(weights.mean(), 1.0, rtol=1e-5)
        divergences, active = spent(weights, ratios, names), np.asarray(found.coefficients) > 0
        np.testing.assert_allclose(divergences[active], budgets[active], rtol=1e-4)
        assert np.all(divergences[~active] <= budgets[~active])
        np.testing.assert_allclose(found.kl, divergences, rtol=1e-4)
        gain, unit = np.mean(weights * advantages), advantages.std()
        best = best_gain(budgets.astype(np.float64), advantages.astype(np.float64), ratios, names)
        np.testing.assert_allclose(gain / unit, best / unit, atol=2e-4)


@given(st.integers(0, 10_000), st.sampled_from([1e-3, 1e-2, 1.0, 100.0]), st.integers(0, 3))
def test_budgets_are_met_or_slack_or_flagged(seed, scale, drift):
    names = MIXES[1]
    budgets, advantages, ratios = problem(names, seed)
    ratios = ratios * drift
    found, _ = compiled(names)(budgets * np.float32(scale), advantages, ratios)
    assert all(np.all(np.isfinite(leaf)) for leaf in found)
    if not bool(found.feasible):
        assert float(found.shortfall) > 0
        return
    assert float(found.shortfall) == 0
    kl, active = np.asarray(found.kl), np.asarray(found.coefficients) > 0
    assert np.all(kl <= budgets * scale * (1 + 1e-4) + 2e-6)
    if not bool(found.saturated):
        np.testing.assert_allclose(kl[active], (budgets * scale)[active], rtol=1e-4, atol=2e-6)


def test_infeasible_budgets_are_certified_by_the_smallest_common_raise():
    names = MIXES[1]
    _, advantages, ratios = problem(names, 0)
    ratios = 10 * ratios
    ratios -= np.log(np.exp(ratios).mean(axis=1, keepdims=True))
    budgets = np.array([0.05, 0.02], np.float32)
    # min over q of max_j D_j(q || pi_j) - eps_j, directly.
    oracle = minimize(
        lambda z: z[-1],
        np.append(np.ones(K), 1.0),
        bounds=[(1e-12, K)] * K + [(0, 10)],
        method="SLSQP",
        constraints=[
            {"type": "eq", "fun": lambda z: np.mean(z[:-1]) - 1},
            {"type": "ineq", "fun": lambda z: budgets + z[-1] - spent(z[:-1], ratios, names)},
        ],
        options={"maxiter": 300, "ftol": 1e-12},
    )
    assert oracle.success
    assert oracle.fun > 0.01
    found, _ = compiled(names)(budgets, advantages, ratios)
    assert not bool(found.feasible)
    np.testing.assert_allclose(found.shortfall, oracle.fun, rtol=1e-3)
    # Solved in their place: budgets raised by it, a hundredth of it and a tenth of the smallest.
    np.testing.assert_allclose(found.kl, budgets + 1.01 * oracle.fun + 0.002, rtol=1e-3)
    assert bool(compiled(names)(budgets + 1.01 * np.float32(oracle.fun), advantages, ratios)[0].feasible)


# A point mass on one of k samples costs (f(k) + (k - 1) f(0)) / k: with k = 8, by hand.
POINT_MASS = {"chi_squared": 3.5, "squared_hellinger": 1 - 1 / np.sqrt(8)}
POINT_MASS["jensen_shannon"] = (8 * np.log(8) - 9 * np.log(4.5) + 7 * np.log(2)) / 16


@pytest.mark.parametrize("name", [*POINT_MASS, "reverse_kl"])
def test_budgets_that_cannot_bind_and_impossible_samples(name):
    solve = compiled((name,))
    advantages, ratios = np.arange(8, dtype=np.float32), np.zeros((1, 8), np.float32)
    # A finite cost is reached; under reverse KL the rest still costs log(1 / lambda), up to the smallest temperature.
    limit = POINT_MASS.get(name, 20.0)
    below, above = (solve(np.float32([share * limit]), advantages, ratios)[0] for share in (0.5, 1.1))
    assert (bool(below.saturated), bool(above.saturated), bool(above.feasible)) == (False, True, True)
    np.testing.assert_allclose(below.kl, 0.5 * limit, rtol=1e-4)
    assert 0 < float(above.coefficients[0]) < 1e-5
    if name in POINT_MASS:
        np.testing.assert_allclose(above.kl, limit, rtol=1e-5)
    # The best sample is all but impossible for the anchor: only a finite f'(inf) and f(0) make it worth its price.
    ratios[0, 7] = -1e4
    found, log_weights = solve(np.float32([0.2]), advantages, ratios)
    assert bool(found.feasible)
    np.testing.assert_allclose(found.kl, 0.2, rtol=1e-4)
    assert (float(log_weights[7]) > -50) == (name in ("jensen_shannon", "squared_hellinger"))
    # All samples are: nothing but a sampled f(0) or infinity can be said, and it is finite and flagged.
    lost, _ = solve(np.float32([0.2]), advantages, np.full((1, 8), -1e4, np.float32))
    assert not bool(lost.feasible)
    assert float(lost.shortfall) > 0
    assert all(np.all(np.isfinite(leaf)) for leaf in lost)


def test_disjoint_anchors_are_flagged_with_a_shortfall_of_their_distance():
    ratios = np.where(np.arange(8) < 4, [[0.0], [-1e4]], [[-1e4], [0.0]]).astype(np.float32)
    found, _ = compiled(("chi_squared", "kl"))(np.float32([0.2, 0.2]), np.arange(8, dtype=np.float32), ratios)
    assert all(np.all(np.isfinite(leaf)) for leaf in found)
    assert not bool(found.feasible)
    # Chi-squared is infinite anywhere but on its own half, where the KL is 1e4.
    np.testing.assert_allclose(found.shortfall, 1e4, rtol=1e-3)


def test_implicit_derivatives_against_differences():
    names = MIXES[1]
    divergences = tuple(FAMILY[name] for name in names)
    rng = np.random.default_rng(1)
    advantages, ratios = (jnp.asarray(x, jnp.float32) for x in (rng.normal(size=K), 0.3 * rng.normal(size=(2, K))))
    # The divergences of a chosen target as budgets: both bind.
    log_weights = em.target_log_weights(advantages, ratios, jnp.array([1.5, 3.0]), divergences)
    budgets = em.sampled_divergences(log_weights, ratios, divergences, where=jnp.ones(K, bool))

    @functools.partial(jax.jit, compiler_options=FAST)
    def pulled_back(*point):
        def solve(*point):
            found = em.solve_temperature(*point, divergences=divergences)
            return found.coefficients, found.kl

        values, pull = jax.vjp(solve, *point)
        return values, pull((jnp.ones(2), jnp.zeros(2))), pull((jnp.zeros(2), jnp.ones(2)))

    point = (budgets, advantages, ratios)
    (value, _), gradient, kl_gradient = pulled_back(*point)
    np.testing.assert_allclose(value, [1.5, 3.0], rtol=2e-3)
    # Where both constraints are active the divergences move with their budgets and with nothing else.
    np.testing.assert_allclose(kl_gradient[0], 1.0, rtol=1e-3)
    assert max(np.max(np.abs(g)) for g in kl_gradient[1:]) < 1e-3
    for i, size in enumerate((1e-3, 1e-2, 1e-2)):
        step = jnp.asarray(size * rng.normal(size=point[i].shape), jnp.float32)
        ends = [[x + sign * step if j == i else x for j, x in enumerate(point)] for sign in (1, -1)]
        up, down = (np.sum(compiled(names)(*end)[0].coefficients) for end in ends)
        np.testing.assert_allclose(2 * np.sum(gradient[i] * step), up - down, rtol=5e-2, atol=2e-3)


def test_groups_share_coefficients_or_have_their_own():
    rng = np.random.default_rng(5)
    advantages, ratios = rng.normal(size=(3, K)), 0.2 * rng.normal(size=(1, 3, K))
    advantages, ratios = (jnp.asarray(x, jnp.float32) for x in (advantages, ratios))
    names, budget = ("jensen_shannon",), jnp.array([0.06])
    by_group = jax.vmap(compiled(names).__wrapped__, in_axes=(None, 0, 1))
    apart, _ = jax.jit(by_group, compiler_options=FAST)(budget, advantages, ratios)
    for i in range(3):
        alone, _ = compiled(names)(budget, advantages[i], ratios[:, i])
        np.testing.assert_allclose(apart.coefficients[i], alone.coefficients, rtol=2e-3)
    spec = em.GempiSpec(
        (em.Anchor("old", budget=0.06, divergence=numerics.JENSEN_SHANNON),), em.Solved(), scope=em.Scope.GROUP
    )
    samples = Samples(advantages, jnp.zeros((3, K)), ratios)
    target = jax.jit(em.e_step, static_argnums=0, compiler_options=FAST)(spec, {}, samples)
    # The mean over groups, of targets that each sum to 1, as numpy says.
    weights = np.asarray(target.weights, np.float64) * 3 * K
    mean = np.mean([spent(weights[i], np.asarray(ratios)[:, i], names) for i in range(3)])
    np.testing.assert_allclose(mean, 0.06, rtol=2e-4)
    np.testing.assert_allclose(target.metrics["estep/jensen_shannon_over_budget/old"].mean(), 1.0, rtol=2e-4)


def test_one_divergence_for_each_budget():
    with pytest.raises(ValueError, match="1 divergences for 2 budgets"):
        em.solve_temperature(jnp.ones(2), jnp.ones(4), jnp.ones((2, 4)), divergences=(numerics.CHI_SQUARED,))
