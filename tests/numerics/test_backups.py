"""Targets of Q against their definitions as sums in float64, across terminations, time-outs and the sequence's end."""

import math

import jax
import numpy as np
import pytest

from gempi_jax.numerics import n_step_backup, retrace
from tests.numerics.test_advantages import (
    CONTINUES,
    DISCOUNTS,
    GAMMA,
    NEXT,
    RATIOS,
    REWARDS,
    TERMINATED,
    B,
    T,
    episode_end,
    n_steps,
    table,
)

Q = np.random.default_rng(1).normal(size=(B, T))
INPUTS = (REWARDS, DISCOUNTS, CONTINUES, NEXT, Q, RATIOS)


def computed(backup, inputs=INPUTS):
    arrays = [np.asarray(x, bool if x.dtype == bool else np.float32) for x in inputs]
    return jax.jit(backup)(*map(jax.numpy.asarray, arrays))


def retraced(b, t, lam):
    """Q_t + sum_s gamma^(s-t) prod_{t<i<=s} c_i delta_s, with the residuals of E_pi Q: Munos et al., equation 3."""
    total = Q[b, t]
    for s in range(t, episode_end(b, t) + 1):
        product = math.prod(lam * min(1.0, RATIOS[b, i]) for i in range(t + 1, s + 1))
        after = 0.0 if TERMINATED[b, s] else NEXT[b, s]
        total += GAMMA ** (s - t) * product * (REWARDS[b, s] + GAMMA * after - Q[b, s])
    return total


@pytest.mark.parametrize("n", [1, 2, 3, T + 2])
def test_n_steps_are_rewards_and_then_the_expectation(n):
    np.testing.assert_allclose(computed(n_step_backup(n)), table(n_steps, n), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_retrace_cuts_where_the_policy_would_not_have_gone(lam):
    np.testing.assert_allclose(computed(retrace(lam)), table(retraced, lam), rtol=1e-5, atol=1e-5)


def test_without_traces_retrace_is_one_step():
    one = computed(n_step_backup(1))
    np.testing.assert_allclose(computed(retrace(0.0)), one, rtol=1e-5, atol=1e-6)
    never = (*INPUTS[:-1], np.zeros_like(RATIOS))
    np.testing.assert_allclose(computed(retrace(1.0), never), one, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one, REWARDS + DISCOUNTS * NEXT, rtol=1e-5, atol=1e-6)


def test_settings_are_values_and_out_of_range_refused():
    assert retrace(0.5) is retrace(0.5)
    assert n_step_backup(2) is n_step_backup(2)
    with pytest.raises(ValueError, match=r"retrace: lam is 1\.5"):
        retrace(1.5)
    with pytest.raises(ValueError, match="n is 0"):
        n_step_backup(0)
