"""Solved temperatures against scipy in float64, their derivatives, and what happens where budgets cannot be met."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from gempi_jax.em import solve_temperature, temperature_dual

solve = jax.jit(solve_temperature)


def problem(size, number, seed, drift=0.3):
    rng = np.random.default_rng(seed)
    advantages = rng.normal(size=number) * 10 ** rng.uniform(-3, 3)
    ratios = drift * rng.normal(size=(size, number))
    ratios[0] = 0.0
    return advantages.astype(np.float32), ratios.astype(np.float32)


def dual(coefficients, budgets, advantages, ratios):
    """(25) and its KLs in float64."""
    total = coefficients.sum()
    tilt = (advantages + coefficients @ ratios) / total
    top = tilt.max()
    weights = np.exp(tilt - top)
    log_z = np.log(weights.mean()) + top
    weights /= weights.sum()
    kl = np.array([np.sum(weights * (tilt - log_z - ratio)) for ratio in ratios])
    return coefficients @ budgets + total * log_z, kl


def lowest(budgets, advantages, ratios, start, unit):
    """The smallest value that scipy finds from the solution, in units of the advantages."""
    found = minimize(
        lambda x: dual(np.exp(x) * unit, budgets, advantages, ratios)[0] / unit,
        np.log(start / unit + 1e-6),
        method="L-BFGS-B",
        bounds=[(-30, 6)] * len(start),
    )
    return found.fun


@pytest.mark.parametrize("size", [1, 2, 4])
def test_meets_the_constraints_and_no_point_near_is_better(size):
    for seed in range(4):
        advantages, ratios = problem(size, 256, seed)
        budgets = np.array([0.05, 0.3, 0.5, 0.8])[:size] * (1 + seed)
        found = solve(jnp.asarray(budgets, jnp.float32), advantages, ratios)
        assert bool(found.feasible)
        coefficients = np.asarray(found.coefficients, np.float64)
        value, kl = dual(coefficients, budgets, advantages.astype(np.float64), ratios.astype(np.float64))
        active = coefficients > 0
        np.testing.assert_allclose(kl[active], budgets[active], rtol=1e-4)
        assert np.all(kl[~active] <= budgets[~active] * (1 + 1e-4))
        unit = advantages.std()
        best = lowest(budgets, advantages.astype(np.float64), ratios.astype(np.float64), coefficients, unit)
        assert value / unit <= best + 1e-5


def chernoff(budgets, ratios):
    """max over the simplex by a fine grid, two anchors."""
    shares = np.linspace(0, 1, 20001)
    mixed = shares[:, None] * ratios[0] + (1 - shares[:, None]) * ratios[1]
    return np.max(-np.log(np.exp(mixed).mean(axis=1)) - shares * budgets[0] - (1 - shares) * budgets[1])


@pytest.mark.parametrize("drift", [0.5, 2.0])
def test_infeasible_budgets_are_certified(drift):
    advantages, ratios = problem(2, 512, 3, drift)
    ratios[1] -= np.log(np.exp(ratios[1]).mean())
    budgets = np.array([0.01, 0.02], np.float32)
    found = solve(budgets, advantages, ratios)
    expected = chernoff(budgets.astype(np.float64), ratios.astype(np.float64))
    assert expected > 0
    assert not bool(found.feasible)
    np.testing.assert_allclose(found.shortfall, expected, rtol=1e-3)
    # What comes back is finite and meets budgets raised by the shortfall and a tenth of the smallest.
    assert np.all(np.isfinite(found.coefficients))
    np.testing.assert_allclose(found.kl, budgets + expected + 0.001, rtol=1e-2)
    raised = solve(budgets + 1.01 * np.float32(expected), advantages, ratios)
    assert bool(raised.feasible)


def test_a_budget_beyond_log_k_is_reported():
    found = solve(jnp.array([np.log(8.0) + 0.1]), jnp.arange(8.0), jnp.zeros((1, 8)))
    assert bool(found.saturated)
    np.testing.assert_allclose(found.kl, np.log(8.0), rtol=1e-5)
    assert np.all(np.isfinite(found.coefficients))


@pytest.mark.parametrize("size", [2, 4])
def test_among_tied_best_samples_the_budgets_still_bind(size):
    # Binary rewards: all mass goes to the right answers, and only dealing it out between the anchors meets the budgets.
    for seed in range(6):
        rng = np.random.default_rng(seed)
        advantages = (rng.random(1000) < 0.7).astype(np.float32)
        ratios = (0.6 * rng.normal(size=(size, 1000))).astype(np.float32)
        ratios -= np.log(np.exp(ratios).mean(axis=1, keepdims=True))
        # The KLs of the right answers at some shares, and a little more.
        shares = rng.dirichlet(np.full(size, 0.5))
        kl = dual(1e-4 * shares, np.zeros(size), advantages.astype(np.float64), ratios.astype(np.float64))[1]
        budgets = 1.01 * kl + 0.001
        found = solve(jnp.asarray(budgets, jnp.float32), advantages, ratios)
        assert bool(found.feasible)
        coefficients = np.asarray(found.coefficients, np.float64)
        _, kl = dual(coefficients, budgets, advantages.astype(np.float64), ratios.astype(np.float64))
        assert np.all(kl <= budgets * (1 + 1e-4))
        np.testing.assert_allclose(found.kl, kl, rtol=1e-4)


def test_equal_advantages_and_nothing_at_all_are_finite():
    for where in (jnp.ones(8, bool), jnp.zeros(8, bool)):
        found = jax.jit(lambda mask: solve_temperature(jnp.array([0.1]), jnp.ones(8), jnp.zeros((1, 8)), where=mask))(
            where
        )
        assert all(np.all(np.isfinite(leaf)) for leaf in found)


def test_bad_samples_are_left_out():
    advantages, ratios = problem(2, 64, 0)
    advantages = advantages / advantages.std()
    spoilt = np.append(advantages, [np.nan, 1.0, 5.0]).astype(np.float32)
    extended = np.append(ratios, [[0.0, 0.0, 0.0], [np.nan, -np.inf, 0.0]], axis=1).astype(np.float32)
    where = jnp.arange(67) != 66
    found = jax.jit(lambda a, r, w: solve_temperature(jnp.array([0.1, 0.2]), a, r, where=w))(spoilt, extended, where)
    # The impossible sample carries no mass but was drawn: k = 65, and a log-ratio of -50 says the same.
    kept = np.append(advantages, 1.0).astype(np.float32)
    unlikely = np.append(ratios, [[0.0], [-50.0]], axis=1).astype(np.float32)
    unlikely[0, -1] = -50.0
    plain = solve(jnp.array([0.1, 0.2]), kept, unlikely)
    np.testing.assert_allclose(found.coefficients, plain.coefficients, rtol=1e-2)


def test_implicit_derivatives_against_differences():
    advantages, ratios = problem(2, 128, 1)
    advantages = advantages / advantages.std()
    # The KLs of a chosen point as budgets: both bind.
    budgets = jnp.asarray(dual(np.array([0.8, 0.5]), np.zeros(2), advantages, ratios)[1], jnp.float32)

    def coefficients(budgets, advantages, ratios):
        found = solve_temperature(budgets, advantages, ratios)
        return found.coefficients, found.kl

    rng = np.random.default_rng(0)
    directions = [rng.normal(size=x.shape).astype(np.float32) for x in (budgets, advantages, ratios)]
    point = (budgets, jnp.asarray(advantages), jnp.asarray(ratios))
    (value, _), (slope, kl_slope) = jax.jit(lambda p, t: jax.jvp(coefficients, p, t))(point, tuple(directions))
    assert np.all(np.asarray(value) > 0)
    step = 2e-3
    up, _ = jax.jit(coefficients)(*[x + step * d for x, d in zip(point, directions, strict=True)])
    down, _ = jax.jit(coefficients)(*[x - step * d for x, d in zip(point, directions, strict=True)])
    np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=2e-2, atol=2e-2)
    # Where the constraint is active the KL moves with its budget.
    np.testing.assert_allclose(kl_slope, directions[0], rtol=1e-2, atol=1e-3)
    gradient = jax.jit(jax.grad(lambda *p: jnp.sum(coefficients(*p)[0]), argnums=(0, 1, 2)))(*point)
    total = sum(np.sum(g * d) for g, d in zip(gradient, directions, strict=True))
    np.testing.assert_allclose(total, np.sum(slope), rtol=1e-3)


def test_vmap_solves_each_group_alone():
    rng = np.random.default_rng(2)
    advantages = jnp.asarray(rng.normal(size=(4, 32)), jnp.float32)
    ratios = jnp.asarray(0.2 * rng.normal(size=(4, 1, 32)), jnp.float32)
    budgets = jnp.array([0.3])
    together = jax.jit(jax.vmap(solve_temperature, in_axes=(None, 0, 0)))(budgets, advantages, ratios)
    for i in range(4):
        alone = solve(budgets, advantages[i], ratios[i])
        np.testing.assert_allclose(together.coefficients[i], alone.coefficients, rtol=1e-4)


def test_by_groups_the_mean_kl_meets_the_budget():
    rng = np.random.default_rng(3)
    advantages = jnp.asarray(rng.normal(size=(6, 16)), jnp.float32)
    ratios = jnp.asarray(0.3 * rng.normal(size=(2, 6, 16)), jnp.float32)
    budgets = jnp.array([0.3, 0.4])
    found = jax.jit(lambda a, r: solve_temperature(budgets, a, r, axis=-1))(advantages, ratios)
    slope = jax.grad(temperature_dual)(found.coefficients, budgets, advantages, ratios, axis=-1)
    active = np.asarray(found.coefficients) > 0
    np.testing.assert_allclose(np.asarray(slope)[active], 0.0, atol=1e-4)


PRICE = 0.7
solve_beside = jax.jit(lambda *x: solve_temperature(*x, prices=(None, PRICE, None)))


def test_budgets_are_met_beside_a_fixed_price():
    for seed in range(3):
        advantages, ratios = problem(3, 256, seed)
        advantages = advantages / advantages.std()
        # The KLs at a chosen point, whose second coefficient is the price; the second budget is not read.
        budgets = dual(np.array([0.4, PRICE, 0.5]), np.zeros(3), advantages.astype(np.float64), ratios)[1]
        found = solve_beside(jnp.asarray([budgets[0], np.nan, budgets[2]], jnp.float32), advantages, ratios)
        assert bool(found.feasible)
        np.testing.assert_allclose(found.coefficients, [0.4, PRICE, 0.5], rtol=1e-2)
        np.testing.assert_allclose(found.kl, budgets, rtol=1e-3)


def test_beside_a_fixed_price_slack_budgets_cost_nothing_and_infeasible_ones_are_certified():
    advantages, ratios = problem(3, 256, 0, drift=1.0)
    advantages = advantages / advantages.std()
    found = solve_beside(jnp.array([9.0, 0.1, 9.0]), advantages, ratios)
    np.testing.assert_allclose(found.coefficients, [0.0, PRICE, 0.0], rtol=1e-6)
    assert bool(found.feasible)
    assert not bool(found.saturated)
    expected = dual(np.array([0.0, PRICE, 0.0]), np.zeros(3), advantages.astype(np.float64), ratios)[1]
    np.testing.assert_allclose(found.kl, expected, rtol=1e-4)
    ratios[2] -= np.log(np.exp(ratios[2]).mean())
    found = solve_beside(jnp.array([0.01, 0.1, 0.02]), advantages, ratios)
    shortfall = chernoff(np.array([0.01, 0.02]), ratios[::2].astype(np.float64))
    assert shortfall > 0.01
    assert not bool(found.feasible)
    np.testing.assert_allclose(found.shortfall, shortfall, rtol=1e-3)
    assert all(np.all(np.isfinite(leaf)) for leaf in found)


def test_beside_a_fixed_price_derivatives_are_implicit_too():
    advantages, ratios = problem(3, 128, 1)
    advantages = jnp.asarray(advantages / advantages.std())
    kl = dual(np.array([0.8, PRICE, 0.5]), np.zeros(3), np.asarray(advantages), ratios)[1]
    budgets, ratios = jnp.asarray(kl, jnp.float32), jnp.asarray(ratios)
    direction = jnp.asarray(np.random.default_rng(0).normal(size=128), jnp.float32)
    by_advantages = jax.jit(lambda a: solve_beside.__wrapped__(budgets, a, ratios).coefficients)
    slope = jax.jit(lambda a: jax.jvp(by_advantages, (a,), (direction,))[1])(advantages)
    step = 2e-3
    ends = by_advantages(advantages + step * direction) - by_advantages(advantages - step * direction)
    np.testing.assert_allclose(slope, ends / (2 * step), rtol=2e-2, atol=2e-2)
    assert float(slope[1]) == 0.0


def test_prices_for_all_leave_nothing_to_solve():
    with pytest.raises(ValueError, match="at least one budget"):
        solve_temperature(jnp.ones(1), jnp.ones(4), jnp.ones((1, 4)), prices=(1.0,))


@pytest.mark.parametrize("size", [0, 9])
def test_the_number_of_anchors_is_bounded(size):
    with pytest.raises(ValueError, match="1 to 8 anchors"):
        solve_temperature(jnp.ones(size), jnp.ones(4), jnp.ones((size, 4)))


def test_a_large_batch_starts_from_a_part_of_it_and_ends_exact():
    advantages, ratios = problem(2, 200_000, 1)
    budgets = np.array([0.1, 0.12])
    found = solve(jnp.asarray(budgets, jnp.float32), advantages, ratios)
    coefficients = np.asarray(found.coefficients, np.float64)
    _, kl = dual(coefficients, budgets, advantages.astype(np.float64), ratios.astype(np.float64))
    active = coefficients > 0
    assert np.any(active)
    np.testing.assert_allclose(kl[active], budgets[active], rtol=2e-4)
    assert np.all(kl <= budgets * 1.001)
    assert int(found.num_iterations) < 20
