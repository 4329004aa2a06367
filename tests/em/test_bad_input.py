"""What the functions of ``em`` say of input that means nothing, before and after they are traced."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import em, numerics
from gempi_jax.em import mixture
from gempi_jax.numerics import reductions

ADVANTAGES = jnp.array([0.1, -0.3, 0.7, 0.2])
# Without the shape checks of the test session, which users do not have.
importance_log_weights, solve_temperature, temperature_dual = map(
    inspect.unwrap, (em.importance_log_weights, em.solve_temperature, em.temperature_dual)
)
RATIOS = jnp.array([[0.0, 0.1, -0.2, 0.1], [0.0, 0.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("coefficients", "anchor_log_probs", "message"),
    [
        ([0.5, -0.1], RATIOS, r"at least 0 with a positive sum, not \[0.5, -0.1"),
        ([0.0, 0.0], RATIOS, "positive sum"),
        ([0.5, float("nan")], RATIOS, "positive sum"),
        ([0.5], RATIOS, r"2 anchors need one number each, not shape \(1,\)"),
        ([0.5, 0.5], RATIOS[:, :3], r"shape \(2, 3\), advantages \(4,\); give \[m, \*advantages.shape\]"),
    ],
)
def test_log_weights_name_what_is_wrong(coefficients, anchor_log_probs, message):
    with pytest.raises(ValueError, match=f"importance_log_weights: .*{message}"):
        importance_log_weights(ADVANTAGES, anchor_log_probs, jnp.zeros(4), jnp.array(coefficients))


@pytest.mark.parametrize(
    ("budgets", "where", "message"),
    [
        ([0.1, 0.0], None, r"budgets, in nats, must be positive, not \[0.1.*, 0.0\]"),
        ([0.1, float("nan")], None, "must be positive"),
        ([0.1, 0.1, 0.1], None, r"2 anchors need one number each, not shape \(3,\)"),
        ([0.1, 0.1], jnp.ones(3, bool), r"mask has shape \(3,\), advantages \(4,\)"),
    ],
)
def test_temperatures_name_what_is_wrong(budgets, where, message):
    with pytest.raises(ValueError, match=f"solve_temperature: .*{message}"):
        solve_temperature(jnp.array(budgets), ADVANTAGES, RATIOS, where=where)
    if "must be" not in message:
        with pytest.raises(ValueError, match=f"temperature_dual: .*{message}"):
            temperature_dual(jnp.array([1.0, 1.0]), jnp.array(budgets), ADVANTAGES, RATIOS, where=where)


def test_a_mask_that_only_broadcasts_is_refused():
    ones = jnp.ones(4)
    for where in (jnp.ones((4, 1), bool), jnp.ones(1, bool)):
        # What every masked function of em reduces with.
        for function in (reductions.sum, reductions.max, reductions.logsumexp, mixture.normalized):
            with pytest.raises(ValueError, match=r"mask has shape .* array \(4,\); give one flag for each entry"):
                inspect.unwrap(function)(ones, where=where)
        with pytest.raises(ValueError, match="top_k_mask: where has shape"):
            inspect.unwrap(em.top_k_mask)(ones, 0.5, where=where)
        with pytest.raises(ValueError, match="mask has shape"):
            inspect.unwrap(em.target_log_weights)(ones, ones[None], jnp.ones(1), (numerics.KL,), where=where)


def test_targets_and_duals_refuse_prices_that_mean_nothing():
    for value in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="solve_target: coefficients"):
            em.solve_target(ADVANTAGES, RATIOS[:1], jnp.array([value]), (numerics.CHI_SQUARED,))
        with pytest.raises(ValueError, match="temperature_dual: coefficients"):
            temperature_dual(jnp.array([value]), jnp.ones(1), ADVANTAGES, RATIOS[:1])
        with pytest.raises(ValueError, match="temperature_dual: budgets"):
            temperature_dual(jnp.ones(1), jnp.array([value]), ADVANTAGES, RATIOS[:1])
    with pytest.raises(ValueError, match="solve_target: arrays over anchors"):
        inspect.unwrap(em.solve_target)(ADVANTAGES, RATIOS[:1, :1], jnp.ones(1), (numerics.CHI_SQUARED,))
    with pytest.raises(ValueError, match="finite number"):
        numerics.alpha_divergence(float("nan"))


def test_log_weights_that_overflow_are_the_largest():
    weights = em.normalize_weights(jnp.array([jnp.inf, 0.0, jnp.nan, -jnp.inf]))
    np.testing.assert_array_equal(weights, [1.0, 0.0, 0.0, 0.0])


def test_a_budget_that_is_not_positive_at_run_time_is_flagged_and_stays_finite():
    solve = jax.jit(em.solve_temperature)
    good = solve(jnp.array([0.1, 0.2]), ADVANTAGES, RATIOS)
    assert bool(good.feasible)
    for bad in (0.0, -1.0, float("nan")):
        solution = solve(jnp.array([0.1, bad]), ADVANTAGES, RATIOS)
        assert not bool(solution.feasible)
        # It is at least as far from feasible as from 0.
        assert float(solution.shortfall) >= (-bad if bad < 0 else 0)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(solution))
