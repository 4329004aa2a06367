"""Estimators against their definitions as sums in float64, across terminations, time-outs and the unroll's end."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.numerics import gae, n_step_returns, unroll_returns, vtrace

B, T, GAMMA = 4, 7, 0.9
generator = np.random.default_rng(0)
REWARDS, VALUES, NEXT = generator.normal(size=(3, B, T))
RATIOS = np.exp(generator.normal(size=(B, T)))
TERMINATED = np.zeros((B, T), bool)
TRUNCATED = np.zeros((B, T), bool)
# Row 0 is one episode that goes on; 1 terminates at step 2; 2 times out at step 3; 3 does both, and times out last.
TERMINATED[1, 2] = TERMINATED[3, 1] = TRUNCATED[2, 3] = TRUNCATED[3, 4] = TRUNCATED[3, 6] = True
CONTINUES = ~(TERMINATED | TRUNCATED)
DISCOUNTS = GAMMA * ~TERMINATED
# Within an episode the next value is V of the next entry; at a time-out and at the end it is a number of its own.
NEXT[:, :-1] = np.where(CONTINUES[:, :-1], VALUES[:, 1:], NEXT[:, :-1])
INPUTS = (REWARDS, DISCOUNTS, CONTINUES, VALUES, NEXT)


def episode_end(b, t):
    """The last step of t's episode within the unroll."""
    return next(s for s in range(t, T) if s == T - 1 or not CONTINUES[b, s])


def n_steps(b, t, n):
    """Rewards of n steps, or as many as there are, and V of the state after them unless that is terminal."""
    last = min(t + n - 1, episode_end(b, t))
    total = sum(GAMMA ** (s - t) * REWARDS[b, s] for s in range(t, last + 1))
    return total + GAMMA ** (last - t + 1) * NEXT[b, last] * (not TERMINATED[b, last])


def lambda_return(b, t, lam):
    """(1 - lam) sum_n lam^(n-1) G^(n), and the whole return for the rest."""
    whole = episode_end(b, t) - t + 1
    mixed = sum((1 - lam) * lam ** (n - 1) * n_steps(b, t, n) for n in range(1, whole))
    return mixed + lam ** (whole - 1) * n_steps(b, t, whole)


def vtrace_target(b, t, lam, rho_clip, c_clip):
    """V_t + sum_s gamma^(s-t) prod_{t<=i<s} c_i delta_s, as a sum over the episode's steps."""
    total = VALUES[b, t]
    for s in range(t, episode_end(b, t) + 1):
        product = math.prod(lam * min(RATIOS[b, i], c_clip) for i in range(t, s))
        after = 0.0 if TERMINATED[b, s] else NEXT[b, s]
        residual = min(RATIOS[b, s], rho_clip) * (REWARDS[b, s] + GAMMA * after - VALUES[b, s])
        total += GAMMA ** (s - t) * product * residual
    return total


def table(function, *settings):
    return np.asarray([[function(b, t, *settings) for t in range(T)] for b in range(B)])


def run(estimator, *ratios):
    return jax.jit(estimator)(*(jnp.asarray(x, bool if x.dtype == bool else jnp.float32) for x in (*INPUTS, *ratios)))


def check(estimator, targets, advantages, *ratios):
    found = run(estimator, *ratios)
    np.testing.assert_allclose(found[0], advantages, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(found[1], targets, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_the_targets_of_gae_are_lambda_returns(lam):
    targets = table(lambda_return, lam)
    check(gae(lam), targets, targets - VALUES)


def test_an_unroll_bootstraps_once():
    targets = table(n_steps, T)
    check(unroll_returns(), targets, targets - VALUES)


@pytest.mark.parametrize("n", [1, 3, T, 3 * T])
def test_n_steps_roll(n):
    targets = table(n_steps, n)
    check(n_step_returns(n), targets, targets - VALUES)


@pytest.mark.parametrize(("lam", "rho_clip", "c_clip"), [(1.0, 1.0, 1.0), (0.8, 2.0, 0.7), (1.0, math.inf, 1.0)])
def test_vtrace_is_its_sum(lam, rho_clip, c_clip):
    targets = table(vtrace_target, lam, rho_clip, c_clip)
    following = np.where(CONTINUES & (np.arange(T) < T - 1), np.roll(targets, -1, axis=1), NEXT)
    advantages = np.minimum(RATIOS, rho_clip) * (REWARDS + DISCOUNTS * following - VALUES)
    check(vtrace(lam, rho_clip, c_clip), targets, advantages, RATIOS)


@pytest.mark.parametrize("lam", [0.6, 1.0])
def test_vtrace_of_the_policy_that_acted_is_the_lambda_return(lam):
    targets = table(lambda_return, lam)
    found = run(vtrace(lam), np.ones((B, T)))
    np.testing.assert_allclose(found[1], targets, rtol=2e-5, atol=2e-6)
    if lam == 1.0:
        np.testing.assert_allclose(found[0], targets - VALUES, rtol=2e-5, atol=2e-6)


def test_without_clips_vtrace_is_unbiased():
    # One state, two actions, rewards 1 and 4, b = (3/4, 1/4), pi = (1/4, 3/4): E_b[v] = E_pi[r] = 1/4 + 3 = 13/4.
    rewards, ratios = jnp.asarray([[1.0], [4.0]]), jnp.asarray([[1 / 3], [3.0]])
    nothing = jnp.zeros((2, 1))
    v = vtrace(1.0, math.inf, 1.0)(rewards, nothing, nothing > 0, nothing + 2.0, nothing, ratios)[1][:, 0]
    np.testing.assert_allclose(0.75 * v[0] + 0.25 * v[1], 13 / 4, rtol=1e-6)


@pytest.mark.parametrize(
    "estimator", [gae(0.5), unroll_returns(), n_step_returns(2), vtrace()], ids=["gae", "unroll", "n_step", "vtrace"]
)
def test_neither_another_episode_nor_the_value_after_a_termination_matters(estimator):
    inputs = [jnp.asarray(x, bool if x.dtype == bool else jnp.float32) for x in (*INPUTS, RATIOS)]

    def first_target(rewards, values, next_values):
        return estimator(rewards, inputs[1], inputs[2], values, next_values, inputs[5])[1][1, 0]

    gradients = jax.grad(first_target, (0, 1, 2))(inputs[0], inputs[3], inputs[4])
    for gradient, reached in zip(gradients, (2, 2, 1), strict=True):  # row 1 terminates at step 2
        np.testing.assert_array_equal(gradient[1, reached + 1 :], 0.0)
        np.testing.assert_array_equal(gradient[jnp.asarray([0, 2, 3])], 0.0)


def test_two_of_the_same_settings_are_one_value():
    assert (gae(0.9), n_step_returns(3), vtrace(0.9)) == (gae(0.9), n_step_returns(3), vtrace(0.9))
    estimators = [gae(0.9), n_step_returns(3), n_step_returns(4), vtrace(0.9)]
    assert all(a != b for a, b in itertools.combinations(estimators, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gae(1.5), "gae: lam is 1.5"),
        (lambda: n_step_returns(0), "n_step_returns: n is 0"),
        (lambda: vtrace(-0.1), "vtrace: lam is -0.1"),
        (lambda: vtrace(1.0, 1.0, 2.0), "c_clip is 2.0 and rho_clip 1.0"),
        (lambda: run(vtrace()), r"vtrace: ratios is None; give pi\(a\) / b\(a\)"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
