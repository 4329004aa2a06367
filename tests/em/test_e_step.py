"""The E-step: weights by scope, filters, duals and diagnostics on batches small enough to work out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import em, numerics
from gempi_jax.contracts import Samples

BATCH = Samples(
    advantages=jnp.array([[1.0, -1.0, 0.5], [0.0, 0.25, 2.0]]),
    sampler_log_probs=jnp.array([[-1.0, -2.0, -3.0], [-1.5, -2.5, -0.5]]),
    anchor_log_probs=jnp.array([[[-1.2, -2.0, -2.5], [-1.5, -2.0, -1.0]], [[-1.0, -2.0, -3.0], [-1.5, -2.5, -0.5]]]),
    mask=jnp.array([[True, True, True], [True, True, False]]),
)
step = jax.jit(em.e_step, static_argnums=0)
ONE = BATCH._replace(anchor_log_probs=BATCH.anchor_log_probs[1:])


def oracle_log_weights(coefficients):
    """(24) relative to the sampler in float64."""
    a, b, p = (np.asarray(x, np.float64) for x in (BATCH.advantages, BATCH.sampler_log_probs, BATCH.anchor_log_probs))
    tilt = a + sum(c * (p[j] - b) for j, c in enumerate(coefficients))
    return tilt / sum(coefficients)


def dar_spec(**changes):
    return em.GempiSpec((em.Anchor("ref", 0.5), em.Anchor("old", 1.5)), **changes)


def test_batch_weights_are_a_softmax_over_the_real_samples():
    target = step(dar_spec(), {}, BATCH)
    expected = np.exp(oracle_log_weights([0.5, 1.5])) * np.asarray(BATCH.mask)
    np.testing.assert_allclose(target.weights, expected / expected.sum(), rtol=1e-5)
    assert float(target.dual_loss) == 0.0


def test_group_weights_sum_to_one_over_the_number_of_groups():
    target = step(dar_spec(scope=em.Scope.GROUP), {}, BATCH)
    np.testing.assert_allclose(jnp.sum(target.weights, axis=-1), [0.5, 0.5], rtol=1e-6)


def test_an_empty_group_does_not_count():
    samples = BATCH._replace(mask=jnp.array([[True, True, True], [False, False, False]]))
    target = step(dar_spec(scope=em.Scope.GROUP), {}, samples)
    np.testing.assert_allclose(jnp.sum(target.weights, axis=-1), [1.0, 0.0], rtol=1e-6)


def test_unnormalised_weights_are_clipped_and_averaged():
    target = step(dar_spec(scope=em.Scope.UNNORMALIZED, weight_clip=1.2), {}, BATCH)
    expected = np.minimum(np.exp(oracle_log_weights([0.5, 1.5])), 1.2) * np.asarray(BATCH.mask) / 5
    np.testing.assert_allclose(target.weights, expected, rtol=1e-5)
    # l = (0.45, -0.5, 0.375, 0, 0.25): all but the second and the fourth exceed log 1.2 = 0.182.
    np.testing.assert_allclose(target.metrics["estep/clip_fraction"].mean(), 3 / 5)


def test_sft_has_uniform_weights_over_the_real_samples():
    samples = BATCH._replace(anchor_log_probs=BATCH.anchor_log_probs[:0])
    target = step(em.GempiSpec(), {}, samples)
    np.testing.assert_allclose(target.weights, np.asarray(BATCH.mask) / 5, rtol=1e-6)
    np.testing.assert_allclose(target.metrics["estep/ess"].mean(), 5.0, rtol=1e-6)


def vmpo_spec(temperature, **changes):
    return em.GempiSpec((em.Anchor("old", budget=0.1),), temperature, em.TopK(0.5), **changes)


def test_dual_gradient_is_budget_minus_kl_and_uses_the_selection():
    spec = vmpo_spec(em.Dual())
    duals = {"temperature": jnp.array([0.7])}
    gradient, target = jax.grad(lambda d: (lambda t: (t.dual_loss, t))(step(spec, d, ONE)), has_aux=True)(duals)
    # floor(5 / 2) = 2 samples are kept: advantages 1 and 0.5.
    w = np.exp(np.array([1.0, 0.5]) / 0.7)
    w /= w.sum()
    np.testing.assert_allclose(target.weights, [[w[0], 0, w[1]], [0, 0, 0]], rtol=1e-5)
    np.testing.assert_allclose(gradient["temperature"], [0.1 - np.sum(w * np.log(2 * w))], rtol=1e-4)
    np.testing.assert_allclose(target.metrics["estep/selected_fraction"].mean(), 2 / 5)


@pytest.mark.parametrize("divergence", [numerics.KL, numerics.CHI_SQUARED], ids=lambda d: d.name)
def test_a_price_beside_a_budget(divergence):
    anchors = (em.Anchor("ref", 0.5, divergence=divergence), em.Anchor("old", budget=0.1))
    solved = step(em.GempiSpec(anchors, em.Solved()), {}, BATCH)
    metrics = {name: float(metric.mean()) for name, metric in solved.metrics.items()}
    assert metrics["estep/coefficient/ref"] == 0.5
    assert metrics["estep/coefficient/old"] > 0
    assert metrics["estep/kl_over_budget/old"] == pytest.approx(1.0, rel=1e-3)
    # At the solution the adaptive dual rests, and its price never moves, whatever the dual in its place says.
    adaptive, duals = em.GempiSpec(anchors, em.Dual()), jnp.array([7.0, metrics["estep/coefficient/old"]])
    gradient, target = jax.grad(
        lambda d: (lambda t: (t.dual_loss, t))(step(adaptive, {"temperature": d}, BATCH)), has_aux=True
    )(duals)
    np.testing.assert_allclose(gradient, [0.0, 0.0], atol=1e-4)
    np.testing.assert_allclose(target.weights, solved.weights, rtol=1e-4, atol=1e-6)


def test_solved_temperature_meets_the_budget():
    target = step(vmpo_spec(em.Solved()), {}, ONE)
    np.testing.assert_allclose(target.metrics["estep/kl_over_budget/old"].mean(), 1.0, rtol=1e-4)
    assert float(target.metrics["estep/feasible"].mean()) == 1.0


@pytest.mark.parametrize("scope", [em.Scope.BATCH, em.Scope.GROUP])
def test_all_masked_is_zero_weight_and_finite(scope):
    samples = ONE._replace(mask=jnp.zeros((2, 3), bool))
    for temperature in (em.Dual(), em.Solved()):
        duals = {"temperature": jnp.ones(1)}
        spec = vmpo_spec(temperature, scope=scope)
        gradient = jax.grad(lambda d, spec=spec: step(spec, d, samples).dual_loss)(duals)
        target = step(spec, duals, samples)
        assert float(jnp.sum(target.weights)) == 0.0
        for leaf in jax.tree.leaves((gradient, target)):
            assert np.all(np.isfinite(leaf))


def test_a_nan_advantage_is_left_out_and_counted():
    samples = ONE._replace(advantages=ONE.advantages.at[0, 0].set(jnp.nan))
    target = step(vmpo_spec(em.Solved()), {}, samples)
    assert float(target.weights[0, 0]) == 0.0
    assert float(target.metrics["estep/invalid_samples"].mean()) == 1.0
    assert np.all(np.isfinite(target.weights))


def test_an_impossible_sample_has_weight_zero():
    samples = BATCH._replace(anchor_log_probs=BATCH.anchor_log_probs.at[0, 0, 0].set(-jnp.inf))
    target = step(dar_spec(), {}, samples)
    assert float(target.weights[0, 0]) == 0.0
    for leaf in jax.tree.leaves(target):
        assert np.all(np.isfinite(leaf))


def test_advantages_too_large_to_square_are_left_out_and_counted():
    for huge in (1e16, 3e38, -3e38):
        samples = ONE._replace(advantages=ONE.advantages.at[0, 0].set(huge))
        target = step(vmpo_spec(em.Solved()), {}, samples)
        assert float(target.metrics["estep/invalid_samples"].mean()) == 1.0
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(target))


@pytest.mark.parametrize("temperature", [np.nan, -1.0, 0.0, np.inf])
def test_a_temperature_that_is_not_a_positive_number_is_counted_and_finite(temperature):
    duals = {"temperature": jnp.array([temperature], jnp.float32)}
    (_, target), gradient = jax.value_and_grad(
        lambda d: (lambda t: (t.dual_loss, t))(step(vmpo_spec(em.Dual()), d, ONE)), has_aux=True
    )(duals)
    assert float(target.metrics["estep/invalid_duals"].mean()) == 1.0
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((target, gradient)))
    np.testing.assert_allclose(jnp.sum(target.weights), 1.0, rtol=1e-5)


def test_diagnostics_are_of_the_weights_that_train():
    # l = (2, 0, 0, 0) clipped at 2: w = (2, 1, 1, 1) / 4, ESS = 25 / 7, largest share 0.4.
    spec = em.GempiSpec((em.Anchor("old", 1.0),), scope=em.Scope.UNNORMALIZED, weight_clip=2.0)
    target = step(spec, {}, Samples(jnp.array([2.0, 0.0, 0.0, 0.0]), jnp.zeros(4), jnp.zeros((1, 4))))
    np.testing.assert_allclose(target.weights, [0.5, 0.25, 0.25, 0.25], rtol=1e-6)
    np.testing.assert_allclose(target.metrics["estep/ess"].mean(), 25 / 7, rtol=1e-5)
    np.testing.assert_allclose(target.metrics["estep/max_weight"].mean(), 0.4, rtol=1e-5)


def test_the_bias_of_log_partition_by_group_is_that_of_a_group():
    # chi^2 = 2 sum w^2 - 1 of each of the four pairs: all the same by construction, bias -chi^2 / (2 * 2).
    advantages = jnp.tile(jnp.array([1.0, 0.0]), (4, 1))
    spec = em.GempiSpec((em.Anchor("old", 1.0),), scope=em.Scope.GROUP)
    target = step(spec, {}, Samples(advantages, jnp.zeros((4, 2)), jnp.zeros((1, 4, 2))))
    w = np.exp([1.0, 0.0]) / np.sum(np.exp([1.0, 0.0]))
    expected = -(2 * np.sum(w**2) - 1) / 4
    np.testing.assert_allclose(target.metrics["estep/log_partition_bias"].mean(), expected, rtol=1e-5)


def test_groups_and_duals_are_asked_for():
    flat = Samples(jnp.ones(4), jnp.zeros(4), jnp.zeros((1, 4)))
    spec = em.GempiSpec((em.Anchor("old", 1.0),), scope=em.Scope.GROUP)
    with pytest.raises(ValueError, match=r"Scope.GROUP needs advantages \[G, K, ...\]"):
        step(spec, {}, flat)
    for duals in ({}, {"temperature": jnp.ones(2)}):
        with pytest.raises(ValueError, match="one for each of the anchors"):
            step(vmpo_spec(em.Dual()), duals, ONE)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"anchor_log_probs .* one row for each of the anchors"):
        step(dar_spec(), {}, ONE)
