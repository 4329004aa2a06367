"""The M-step: likelihood, trust region, and that parts of an update add up."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import em, numerics
from gempi_jax.contracts import Counts, Evaluation, Target

LOG_PROBS = jnp.array([[-1.0, -2.0, -9.0], [-0.5, -9.0, -9.0], [-1.0, -1.0, -1.0], [-2.0, -1.0, -9.0]])
MASK = jnp.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]], bool)
DIVERGENCE = jnp.array([[0.1, 0.2, 9.0], [0.3, 9.0, 9.0], [0.1, 0.0, 0.1], [0.2, 0.2, 9.0]])
WEIGHTS = jnp.array([0.1, 0.2, 0.3, 0.4])
FORWARD = em.ExactDivergence(numerics.categorical_kl)


def evaluation(rows=slice(None)):
    return Evaluation(LOG_PROBS[rows], MASK[rows], {"kl": DIVERGENCE[rows]}, Counts(jnp.float32(8.0), jnp.float32(3.0)))


def target(rows=slice(None)):
    return Target({"weights": WEIGHTS[rows]}, jnp.zeros(()), {})


def spec(projection, **changes):
    return em.GempiSpec((em.Anchor("old", 1.0),), projection=projection, **changes)


def test_weighted_nll_by_hand():
    # 0.1 * 3 + 0.2 * 0.5 + 0.3 * 3 + 0.4 * 3 = 2.5; means per example: 0.15 + 0.1 + 0.3 + 0.6 = 1.15.
    np.testing.assert_allclose(em.weighted_nll(LOG_PROBS, WEIGHTS, MASK), 2.5, rtol=1e-6)
    np.testing.assert_allclose(em.weighted_nll(LOG_PROBS, WEIGHTS, MASK, reduction="mean"), 1.15, rtol=1e-6)


def test_weight_zero_on_an_impossible_example_is_no_nan():
    log_probs = LOG_PROBS.at[0, 0].set(-jnp.inf)
    value, gradient = jax.value_and_grad(em.weighted_nll)(log_probs, WEIGHTS.at[0].set(0.0), MASK)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_trust_region_gradients():
    # (2): the parameters see alpha dD, the multiplier sees eps - D.
    d_divergence, d_multiplier = jax.grad(em.trust_region_loss, argnums=(0, 1))(0.3, 5.0, 0.1)
    np.testing.assert_allclose([d_divergence, d_multiplier], [5.0, -0.2], rtol=1e-6)


@pytest.mark.parametrize("projection", [em.Unconstrained(), em.Penalty(2.0, FORWARD), em.Constraint(0.05, FORWARD)])
def test_parts_add_up_to_the_update(projection):
    chosen = spec(projection)
    duals = em.initial_multipliers(chosen)

    def loss(duals, rows):
        return em.m_step(chosen, duals, target(rows), evaluation(rows)).loss

    whole = jax.value_and_grad(loss)(duals, slice(None))
    parts = [jax.value_and_grad(loss)(duals, rows) for rows in (slice(0, 1), slice(1, 4))]
    summed = jax.tree.map(lambda *x: sum(x), *parts)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(summed), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_constraint_value_and_metrics():
    # D = (0.1 + 0.2 + 0.3 + 0.1 + 0 + 0.1 + 0.2 + 0.2) / 8 = 0.15; loss = 2.5 + 5 (0.05 - 0.15) + 5 * 0.15 = 2.75.
    chosen = spec(em.Constraint(0.05, FORWARD))
    output = em.m_step(chosen, em.initial_multipliers(chosen), target(), evaluation())
    np.testing.assert_allclose(output.loss, 2.75, rtol=1e-6)
    means = {name: float(metric.mean()) for name, metric in output.metrics.items()}
    expected = {"mstep/nll": 2.5, "mstep/kl": 0.15, "mstep/kl_over_budget": 3.0, "mstep/multiplier": 5.0}
    assert means == pytest.approx(expected, rel=1e-5)


def test_gaussian_parts_have_their_own_multipliers():
    both = em.GaussianDivergence(numerics.gaussian_kl)
    chosen = spec(em.Constraint((0.1, 0.001), both, em.Lagrangian((1.0, 2.0))))
    duals = em.initial_multipliers(chosen)
    parts = evaluation()._replace(divergence={"mean": DIVERGENCE, "covariance": 0.1 * DIVERGENCE})
    gradient = jax.grad(lambda d: em.m_step(chosen, d, target(), parts).loss)(duals)
    np.testing.assert_allclose(gradient["multiplier/mean"], 0.1 - 0.15, rtol=1e-5)
    np.testing.assert_allclose(gradient["multiplier/covariance"], 0.001 - 0.015, rtol=1e-5)


def test_missing_divergence_is_named():
    chosen = spec(em.Penalty(1.0, FORWARD))
    with pytest.raises(ValueError, match="needs \\['kl'\\]"):
        em.m_step(chosen, {}, target(), evaluation()._replace(divergence={}))


def test_likelihood_names_shapes_that_disagree():
    nll = inspect.unwrap(em.weighted_nll)
    for weights, mask in ((WEIGHTS[:1], MASK), (WEIGHTS, MASK[:, :1])):
        with pytest.raises(ValueError, match="one weight for each example"):
            nll(LOG_PROBS, weights, mask)


def test_a_multiplier_that_is_missing_or_undefined():
    chosen = spec(em.Constraint(0.1, FORWARD))
    with pytest.raises(ValueError, match="start from"):
        em.m_step(chosen, {}, target(), evaluation())
    for bad in (jnp.nan, -1.0, 0.0):
        output = em.m_step(chosen, {"multiplier/kl": jnp.float32(bad)}, target(), evaluation())
        assert np.isfinite(output.loss)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": jnp.ones(3)}, "weights"),
        ({"mask": MASK[:, :2]}, "mask"),
    ],
)
def test_wrong_shapes_are_named(changes, message):
    chosen = spec(em.Unconstrained())
    weights = target()._replace(examples={"weights": changes.pop("weights", WEIGHTS)})
    with pytest.raises(ValueError, match=message):
        em.m_step(chosen, {}, weights, evaluation()._replace(**changes))
