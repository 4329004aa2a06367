"""The core functions compiled, uncompiled, placed and under pmap: shapes, values, and how often they are traced."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import em, numerics
from gempi_jax.contracts import Samples

SHAPE = (2, 4)
COEFFICIENTS, BUDGETS = jnp.array([0.5, 1.5]), jnp.array([0.1, 0.2])


def samples(seed=0):
    rng = np.random.default_rng(seed)
    sampler = rng.normal(-5, 1, SHAPE)
    anchors = sampler + np.stack([0.1 * rng.normal(size=SHAPE), np.zeros(SHAPE)])
    arrays = (rng.normal(size=SHAPE), sampler, anchors)
    mask = np.ones(SHAPE, bool)
    mask[0, 0] = False
    return Samples(*(jnp.asarray(x, jnp.float32) for x in arrays), jnp.asarray(mask))


def core(batch):
    """Every step from samples to the weighted likelihood, each function on its own."""
    ratios = em.anchor_log_ratios(batch.anchor_log_probs, batch.sampler_log_probs)
    log_weights = em.importance_log_weights(
        batch.advantages, batch.anchor_log_probs, batch.sampler_log_probs, COEFFICIENTS
    )
    weights = em.normalize_weights(log_weights, where=batch.mask)
    dual, slope = jax.value_and_grad(em.temperature_dual)(
        COEFFICIENTS, BUDGETS, batch.advantages, ratios, where=batch.mask
    )
    return {
        "weights": weights,
        "by_group": em.normalize_weights(log_weights, where=batch.mask, axis=-1),
        "selected": em.top_k_mask(batch.advantages, 0.5, where=batch.mask),
        "log_partition": em.log_partition(log_weights, where=batch.mask, axis=-1),
        "ess": em.effective_sample_size(weights, where=batch.mask),
        "kl": em.anchor_kl(log_weights, ratios, where=batch.mask),
        "dual": dual,
        "slope": slope,
        "nll": em.weighted_nll(-jnp.ones((*SHAPE, 3)), weights, jnp.ones((*SHAPE, 3), bool)),
        "trust_region": numerics.categorical_kl(batch.sampler_log_probs, batch.advantages),
    }


SHAPES = {
    "weights": SHAPE,
    "by_group": SHAPE,
    "selected": SHAPE,
    "log_partition": SHAPE[:1],
    "ess": (),
    "kl": (2,),
    "dual": (),
    "slope": (2,),
    "nll": (),
    "trust_region": SHAPE[:1],
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class Variants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_device=True, with_pmap=True)
    def test_core(self):
        found = self.variant(core)(samples())
        chex.assert_tree_all_finite(found)
        assert {name: value.shape for name, value in found.items()} == SHAPES
        # By hand in float64: l, then softmax over the real samples.
        a, b, p, mask = (np.asarray(x, np.float64) for x in samples()[:4])
        tilt = np.where(mask > 0, (a + 0.5 * (p[0] - b) + 1.5 * (p[1] - b)) / 2.0, -np.inf)
        weights = np.exp(tilt) / np.exp(tilt).sum()
        np.testing.assert_allclose(found["weights"], weights, rtol=1e-5)
        # Three terms of one nat each under weights that sum to 1.
        np.testing.assert_allclose(found["nll"], 3.0, rtol=1e-5)
        np.testing.assert_allclose(found["slope"], BUDGETS - found["kl"], rtol=1e-4, atol=1e-6)
        assert int(jnp.sum(found["selected"])) == 3

    @chex.variants(with_jit=True, without_jit=True)
    def test_solved_temperature(self):
        batch = samples()
        ratios = em.anchor_log_ratios(batch.anchor_log_probs, batch.sampler_log_probs)
        found = self.variant(em.solve_temperature)(BUDGETS, batch.advantages, ratios)
        chex.assert_tree_all_finite(found)
        chex.assert_shape([found.coefficients, found.kl], (2,))
        active = np.asarray(found.coefficients) > 0
        np.testing.assert_allclose(found.kl[active], BUDGETS[active], rtol=1e-4)


def test_an_e_step_is_traced_once_for_all_values_and_for_equal_settings():
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(em.e_step, n=1), static_argnums=0)
    for seed in range(3):
        spec = em.GempiSpec((em.Anchor("ref", budget=0.1), em.Anchor("old", budget=0.2)), em.Dual(), em.TopK(0.5))
        target = step(spec, {"temperature": jnp.full((2,), 1.0 + seed)}, samples(seed))
        chex.assert_tree_all_finite(target)
        chex.assert_shape(target.weights, SHAPE)
        chex.assert_rank([metric.sum for metric in target.metrics.values()], 0)
    with pytest.raises(AssertionError, match="traced"):
        step(spec, {"temperature": jnp.ones(2)}, jax.tree.map(lambda x: jnp.concatenate([x, x], axis=-1), samples()))
