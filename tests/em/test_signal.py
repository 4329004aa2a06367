"""No signal moves nothing: what is flat has no weight, in every method, and is counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import em, numerics
from gempi_jax.contracts import Samples
from gempi_jax.methods import METHODS

SHAPE = (3, 4)


def make(advantages, anchors, **fields):
    """Samples whose anchors disagree with the sampler, so that weights would differ without any advantage."""
    rng = np.random.default_rng(0)
    advantages = jnp.broadcast_to(jnp.asarray(advantages, jnp.float32), SHAPE)
    sampler = jnp.asarray(rng.normal(-5, 1, SHAPE), jnp.float32)
    log_probs = jnp.asarray(rng.normal(-5, 1, (anchors, *SHAPE)), jnp.float32)
    return Samples(advantages, sampler, log_probs, **fields)


def run(method, samples):
    """The target, and the gradient of the dual."""
    duals, state = method.init(), method.init_state(jax.random.key(0))

    @jax.jit
    def both(duals, samples, state):
        return jax.grad(lambda d: (lambda t: (t.dual_loss, t))(method.e_step(d, samples, state)), has_aux=True)(duals)

    gradient, target = both(duals, samples, state)
    return target, gradient


def mean(target, name):
    return float(target.metrics[f"estep/{name}"].mean())


@pytest.mark.parametrize("name", sorted(name for name, make in METHODS.items() if make().needs.rewards))
def test_a_flat_batch_has_no_weight_in_any_method(name):
    method = METHODS[name]()

    def rewarded(rewards):
        rewards = jnp.broadcast_to(jnp.asarray(rewards, jnp.float32), SHAPE)
        told = dict.fromkeys(("rewards", "reference_rewards", "values", "value_targets"), rewards)
        return make(rewards, len(method.needs.anchors), **told)

    target, gradient = run(method, rewarded(0.1))
    assert not bool(target.signal)
    assert mean(target, "flat_batch") == 1.0
    for leaf in jax.tree.leaves((target.weights, target.dual_loss, gradient)):
        np.testing.assert_array_equal(leaf, 0.0)
    numbers = [x for x in jax.tree.leaves(target) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    assert all(np.isfinite(x).all() for x in numbers)
    # One sample that differs is a signal.
    target, _ = run(method, rewarded(np.where(np.arange(12).reshape(SHAPE) == 5, 1.0, 0.1)))
    assert bool(target.signal)
    assert mean(target, "flat_batch") == 0.0
    assert float(jnp.abs(target.weights).sum()) > 0


def test_demonstrations_tell_all_the_same():
    target, _ = run(METHODS["sft"](), make(0.0, 0))
    np.testing.assert_allclose(target.weights, np.full(SHAPE, 1 / 12), rtol=1e-6)
    assert bool(target.signal)
    assert mean(target, "flat_batch") == 0.0


def test_the_best_of_equals_is_none():
    best = em.GempiSpec(filter=em.TopK(0.25))
    target = em.e_step(best, {}, make(1.0, 0))
    assert float(target.weights.sum()) == 0.0
    assert not bool(target.signal)
    target = em.e_step(best, {}, make([0.0, 1.0, 0.0, 0.0], 0))
    np.testing.assert_allclose(target.weights, [[0, 1 / 3, 0, 0]] * 3, rtol=1e-6)


@pytest.mark.parametrize("name", ["vmpo", "awr", "dar", "at_dar", "dar_tr", "top_k_dar", "rl_em"])
def test_where_groups_are_compared_flat_ones_have_no_weight(name):
    # As with the mean of the group taken off: the first group is flat, the second has three ones, the last a half.
    advantages = np.array([[0.0] * 4, [0.25, 0.25, 0.25, -0.75], [0.375, -0.125, -0.125, -0.125]])
    told = jnp.array([[False] * 4, [True] * 4, [True] * 4])
    method = METHODS[name](**({"top_k_fraction": 0.5} if name in ("vmpo", "top_k_dar") else {}))
    target, _ = run(method, make(advantages, len(method.needs.anchors), signal=told))
    of_group = np.asarray(target.weights.sum(-1))
    assert of_group[0] == 0.0
    assert of_group[1] > 0
    assert mean(target, "flat_groups") == pytest.approx(1 / 3)
    assert mean(target, "flat_batch") == 0.0
    # The rest is as if the flat group were not there, but that unnormalised weights are averaged over all samples.
    rest, _ = run(method, make(advantages, len(method.needs.anchors), mask=told))
    share = 8 / 12 if name in ("awr", "dar", "dar_tr") else 1.0
    np.testing.assert_allclose(target.weights, share * rest.weights, rtol=1e-5, atol=1e-7)


def test_by_group_a_group_is_judged_by_its_advantages():
    # r - V(x): the first group is flat at a level of its own, which says nothing within it.
    advantages = np.array([[0.7] * 4, [0.7, 0.1, 0.1, 0.1], [0.0, 0.0, 0.0, 1.0]])
    spec = em.GempiSpec((em.Anchor("ref", 1.0),), scope=em.Scope.GROUP)
    target = em.e_step(spec, {}, make(advantages, 1))
    np.testing.assert_allclose(target.weights.sum(-1), [0.0, 0.5, 0.5], rtol=1e-6)
    assert mean(target, "flat_groups") == pytest.approx(1 / 3)
    # Compared across groups, as against the batch's mean, the same group does say something.
    across = em.e_step(em.GempiSpec((em.Anchor("ref", 1.0),)), {}, make(advantages, 1))
    assert np.all(np.asarray(across.weights) > 0)


def test_the_top_is_a_share_of_what_tells_something():
    advantages = np.array([[9.0] * 4, [9.0] * 4, [0.0, 1.0, 2.0, 3.0]])
    spec = em.GempiSpec((em.Anchor("old", 1.0),), filter=em.TopK(0.5))
    target = em.e_step(spec, {}, make(advantages, 1, signal=jnp.asarray(advantages < 9)))
    np.testing.assert_array_equal(target.weights > 0, [[False] * 4, [False] * 4, [False, False, True, True]])
    assert mean(target, "selected_fraction") == pytest.approx(2 / 12)


def test_what_the_filter_drops_is_counted_by_group():
    # All log-ratios 0, eta = 1: q is a softmax of A in each group; the best two of the batch are in the first group.
    advantages = np.array([[5.0, 4.0, 0.0, 1.0], [0.0, 1.0, 2.0, 3.0], [0.0, 2.0, 0.0, 1.0]])
    q = np.exp(advantages) / np.exp(advantages).sum(-1, keepdims=True)
    expected = np.mean([q[0, 2] + q[0, 3], 1.0, 1.0])
    samples = Samples(jnp.asarray(advantages, jnp.float32), jnp.zeros(SHAPE), jnp.zeros((1, *SHAPE)))
    spec = em.GempiSpec((em.Anchor("old", 1.0),), filter=em.TopK(2 / 12), scope=em.Scope.GROUP)
    np.testing.assert_allclose(mean(em.e_step(spec, {}, samples), "truncation_mass"), expected, rtol=1e-5)
    # Half of chi-squared: q = b max(0, 1 + A - mu), over all samples and not over the selected ones.
    low, high = -10.0, 10.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if np.maximum(0, 1 + advantages - middle).mean() > 1 else (low, middle)
    whole = np.maximum(0, 1 + advantages - low) / 12
    spec = em.GempiSpec((em.Anchor("old", 1.0, divergence=numerics.CHI_SQUARED),), filter=em.TopK(2 / 12))
    expected = 1 - whole[0, 0] - whole[0, 1]
    np.testing.assert_allclose(mean(em.e_step(spec, {}, samples), "truncation_mass"), expected, rtol=1e-4)


@pytest.mark.parametrize("axis", [None, -1])
@pytest.mark.parametrize("divergences", [None, (numerics.CHI_SQUARED, numerics.KL)], ids=["kl", "mixed"])
def test_budgets_are_infeasible_where_no_sample_is_possible(axis, divergences):
    samples = make(np.arange(12.0).reshape(SHAPE) / 10, 2)
    ratios = em.anchor_log_ratios(samples.anchor_log_probs, samples.sampler_log_probs)
    options = {"divergences": divergences, "axis": axis}
    budgets = jnp.array([50.0, 50.0])
    assert bool(em.solve_temperature(budgets, samples.advantages, ratios, **options).feasible)
    # Each sample is possible under one of the anchors, none under both.
    odd = jnp.arange(12).reshape(SHAPE) % 2 == 1
    ratios = jnp.where(jnp.stack([odd, ~odd]), ratios, -jnp.inf)
    found = em.solve_temperature(budgets, samples.advantages, ratios, **options)
    assert not bool(found.feasible)
    assert float(found.shortfall) >= 1e30
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
