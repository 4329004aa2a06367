"""General divergences: closed forms, optimality of (22), extremes, and the E-step that they become by configuration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import em, numerics
from gempi_jax.contracts import Samples

KL, RKL, CHI = numerics.KL, numerics.REVERSE_KL, numerics.CHI_SQUARED
JS, HELLINGER = numerics.JENSEN_SHANNON, numerics.SQUARED_HELLINGER
rng = np.random.default_rng(0)
ADVANTAGES = jnp.asarray(rng.normal(size=6), jnp.float32)
LOG_PROBS = jnp.asarray(np.log(rng.dirichlet(np.ones(6), size=3)), jnp.float32)
COEFFICIENTS = jnp.array([0.3, 0.7, 0.2])
solve = jax.jit(em.solve_target, static_argnums=3)


def test_all_kl_is_the_geometric_mixture():
    found = solve(ADVANTAGES, LOG_PROBS, COEFFICIENTS, (KL, KL, KL))
    tilt = (ADVANTAGES + COEFFICIENTS @ LOG_PROBS) / jnp.sum(COEFFICIENTS)
    np.testing.assert_allclose(found, jax.nn.log_softmax(tilt), rtol=1e-5, atol=1e-5)


def test_one_chi_squared_is_sparse():
    q = np.exp(np.asarray(solve(ADVANTAGES, LOG_PROBS[:1], COEFFICIENTS[:1], (CHI,)), np.float64))
    p = np.exp(np.asarray(LOG_PROBS[0], np.float64))
    # q = p max(0, 1 + (A - mu) / lambda): mu from the largest supported action gives all the others.
    top = np.argmax(q)
    mu = ADVANTAGES[top] - 0.3 * (q[top] / p[top] - 1)
    np.testing.assert_allclose(q, p * np.maximum(0, 1 + (np.asarray(ADVANTAGES) - mu) / 0.3), rtol=1e-4, atol=1e-5)
    assert np.any(q == 0)


def test_one_reverse_kl():
    q = np.exp(np.asarray(solve(ADVANTAGES, LOG_PROBS[:1], COEFFICIENTS[:1], (RKL,)), np.float64))
    p = np.exp(np.asarray(LOG_PROBS[0], np.float64))
    mu = 0.3 * p / q + np.asarray(ADVANTAGES)
    np.testing.assert_allclose(mu, mu[0], rtol=1e-4)


MIXES = [
    (KL, RKL, CHI),
    (CHI, JS, HELLINGER),
    (numerics.alpha_divergence(3.0), numerics.alpha_divergence(-1.0), KL),
    (JS, HELLINGER, RKL),
]


@pytest.mark.parametrize("divergences", MIXES, ids=lambda mix: "+".join(d.name for d in mix))
def test_no_distribution_near_is_better(divergences):
    log_q = solve(ADVANTAGES, LOG_PROBS, COEFFICIENTS, divergences)
    np.testing.assert_allclose(jnp.sum(jnp.exp(log_q)), 1.0, rtol=1e-5)

    def objective(log_q):
        cost = sum(c * d(log_q, p) for c, d, p in zip(COEFFICIENTS, divergences, LOG_PROBS, strict=True))
        return jnp.sum(jnp.exp(log_q) * ADVANTAGES) - cost

    noise = jnp.asarray(np.random.default_rng(1).normal(size=(200, 6)), jnp.float32)
    noise = noise * jnp.logspace(-3, 0, 200)[:, None]
    others = jax.nn.log_softmax(log_q[None] + noise, axis=-1)
    assert np.all(np.asarray(jax.vmap(objective)(others)) <= float(objective(log_q)) + 1e-6)


@pytest.mark.parametrize("divergence", [RKL, CHI, JS, HELLINGER], ids=lambda d: d.name)
def test_stable_for_tiny_probabilities(divergence):
    log_p = jax.nn.log_softmax(jnp.array([0.0, -1.0, -100.0, -1e4, -jnp.inf, -2.0]))
    found = np.asarray(solve(ADVANTAGES, log_p[None], COEFFICIENTS[1:2], (divergence,)))
    assert not np.any(np.isnan(found))
    np.testing.assert_allclose(np.sum(np.exp(found.astype(np.float64))), 1.0, rtol=1e-4)
    assert found[4] == -np.inf


def test_prices_of_opposite_infinity_leave_a_distribution():
    # alpha = 3 (or chi-squared) forbids all but the first outcome, alpha = -1 (or Hellinger) asks for some of each, at
    # prices of e^1000 and more: the first outcome gets all that a float shows.
    log_probs = jnp.array([[0, -1e4, -1e4, -1e4, -1e4, -1e4], [-6500, 0, -2000, -2200, -3000, -5000]])
    for divergences in ((numerics.alpha_divergence(3.0), numerics.alpha_divergence(-1.0)), (CHI, HELLINGER)):
        found = solve(ADVANTAGES, log_probs, COEFFICIENTS[:2], divergences)
        np.testing.assert_allclose(jnp.exp(found), np.eye(6)[0], atol=1e-6)


def test_sampled_form_equals_the_exact_one_when_every_outcome_is_sampled_once():
    # Under a uniform sampler with each of the 6 outcomes once, q / b = 6 q.
    log_b = jnp.full((6,), -jnp.log(6.0))
    for divergences in ((CHI, KL, JS), (RKL, RKL, HELLINGER)):
        exact = solve(ADVANTAGES, LOG_PROBS, COEFFICIENTS, divergences)
        sampled = em.target_log_weights(ADVANTAGES, LOG_PROBS - log_b[None], COEFFICIENTS, divergences)
        np.testing.assert_allclose(jnp.exp(sampled), 6 * jnp.exp(exact), rtol=1e-3, atol=1e-5)
        found = em.sampled_divergences(sampled, LOG_PROBS - log_b[None], divergences, where=jnp.ones(6, bool))
        expected = jnp.stack([d(exact, p) for d, p in zip(divergences, LOG_PROBS, strict=True)])
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def samples(groups=3, size=8):
    generator = np.random.default_rng(4)
    shape = (groups, size)
    sampler = jnp.asarray(generator.normal(-5, 1, shape), jnp.float32)
    ratios = jnp.asarray(0.3 * generator.normal(size=(2, *shape)), jnp.float32)
    advantages = jnp.asarray(generator.normal(size=shape), jnp.float32)
    return Samples(advantages, sampler, sampler[None] + ratios, jnp.asarray(generator.random(shape) < 0.8))


@pytest.mark.parametrize("scope", [em.Scope.BATCH, em.Scope.GROUP, em.Scope.UNNORMALIZED])
def test_an_e_step_by_configuration(scope):
    anchors = (em.Anchor("ref", 0.5, divergence=CHI), em.Anchor("old", 0.5, divergence=JS))
    target = jax.jit(em.e_step, static_argnums=0)(em.GempiSpec(anchors, scope=scope), {}, samples())
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(target))
    np.testing.assert_allclose(jnp.sum(target.weights), 1.0, rtol=1e-4)
    assert "estep/chi_squared/ref" in target.metrics
    assert "estep/kl/old" in target.metrics


@pytest.mark.parametrize("scope", [em.Scope.BATCH, em.Scope.GROUP])
def test_the_adaptive_dual_of_any_divergence_has_the_envelope_gradient(scope):
    anchors = (em.Anchor("ref", budget=0.2, divergence=CHI), em.Anchor("old", budget=0.05, divergence=HELLINGER))
    spec = em.GempiSpec(anchors, em.Dual(), scope=scope)
    value = jax.jit(lambda c: em.e_step(spec, {"temperature": c}, samples()).dual_loss)
    point, step = jnp.array([0.5, 0.8]), 2e-2
    slope = jax.jit(jax.grad(value))(point)
    for j in range(2):
        shift = step * jnp.eye(2)[j]
        np.testing.assert_allclose(slope[j], (value(point + shift) - value(point - shift)) / (2 * step), atol=3e-3)


def test_numbers_of_anchors_must_agree():
    with pytest.raises(ValueError, match="one of each per anchor"):
        em.solve_target(ADVANTAGES, LOG_PROBS, COEFFICIENTS, (KL, KL))
