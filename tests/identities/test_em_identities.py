"""What must be true of every E-step and M-step, whatever the numbers; float64 is the judge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempi_jax import em, methods, numerics
from gempi_jax.contracts import Counts, Evaluation, Samples, Target

step = jax.jit(em.e_step, static_argnums=0)
SIZES = st.sampled_from([1, 2, 65, 4096])
SCALES = st.sampled_from([1e-4, 1.0, 1e4])
SEEDS = st.integers(0, 1000)
CASE = st.tuples(SIZES, SCALES, SEEDS, st.sampled_from(["continuous", "binary", "constant"]))


def batch(case, anchors=2):
    """Samples with ties, padding, and a sample that the first anchor cannot produce."""
    size, scale, seed, kind = case
    rng = np.random.default_rng(seed)
    advantages = {"continuous": rng.normal(size=size), "binary": rng.integers(0, 2, size), "constant": np.ones(size)}
    sampler = rng.normal(-100, 10, size)
    probs = sampler + rng.normal(size=(anchors, size))
    mask = rng.random(size) < 0.8
    mask[0] = True
    if size > 2:
        probs[0, 1] = -np.inf
    arrays = (scale * advantages[kind], sampler, probs)
    return Samples(*(jnp.asarray(x, jnp.float32) for x in arrays), jnp.asarray(mask))


def oracle(samples, coefficients):
    """Weights of (23) over the batch in float64; 0 where all advantages are equal, which says nothing."""
    a, b, p = (np.asarray(x, np.float64) for x in samples[:3])
    if np.ptp(a[np.asarray(samples.mask)]) == 0:
        return np.zeros(a.shape)
    with np.errstate(invalid="ignore"):
        tilt = (a + np.tensordot(coefficients, p - b, 1)) / np.sum(coefficients)
    tilt = np.where(np.asarray(samples.mask), tilt, -np.inf)
    weights = np.exp(tilt - tilt.max())
    return weights / weights.sum()


def log_weights(samples, coefficients):
    return em.importance_log_weights(
        samples.advantages, samples.anchor_log_probs, samples.sampler_log_probs, coefficients
    )


FIXED = em.GempiSpec((em.Anchor("ref", 0.5), em.Anchor("old", 1.5)))


@given(CASE)
def test_weights_are_those_of_the_oracle(case):
    samples = batch(case)
    weights = np.asarray(step(FIXED, {}, samples).weights)
    expected = oracle(samples, [0.5, 1.5])
    np.testing.assert_allclose(weights.sum(dtype=np.float64), expected.sum(), rtol=1e-5)
    assert np.all(weights >= 0)
    # An advantage of 1e4 at Lambda = 2 has an exponent with 3e-4 of rounding.
    np.testing.assert_allclose(weights, expected, rtol=1e-3 * max(1.0, case[1]), atol=1e-7)


@given(CASE, st.sampled_from([-3.0, 100.0]))
def test_invariant_to_a_shift_of_the_advantages_to_order_and_to_padding(case, shift):
    size, scale = case[:2]
    samples = batch(case)
    weights = np.asarray(step(FIXED, {}, samples).weights)
    close = {"rtol": 2e-4 * max(1.0, scale), "atol": 1e-6}
    shifted = samples._replace(advantages=samples.advantages + shift)
    np.testing.assert_allclose(step(FIXED, {}, shifted).weights, weights, **close)
    order = np.random.default_rng(0).permutation(size)
    mixed = Samples(*(None if x is None else x[..., order] for x in samples))
    np.testing.assert_allclose(step(FIXED, {}, mixed).weights, weights[order], **close)
    junk = samples._replace(
        advantages=jnp.where(samples.mask, samples.advantages, jnp.nan),
        sampler_log_probs=jnp.where(samples.mask, samples.sampler_log_probs, -jnp.inf),
    )
    np.testing.assert_array_equal(step(FIXED, {}, junk).weights, weights)


@given(CASE)
def test_dar_with_one_policy_is_vmpo_at_the_sum_of_its_coefficients(case):
    samples = batch(case)
    same = samples._replace(anchor_log_probs=jnp.stack([samples.sampler_log_probs] * 2))
    one = samples._replace(anchor_log_probs=samples.sampler_log_probs[None])
    dar = step(em.GempiSpec((em.Anchor("ref", 0.3), em.Anchor("old", 0.4))), {}, same)
    vmpo = step(em.GempiSpec((em.Anchor("old", budget=0.1),), em.Dual()), {"temperature": jnp.array([0.7])}, one)
    np.testing.assert_allclose(dar.weights, vmpo.weights, rtol=1e-3 * max(1.0, case[1]), atol=1e-7)


def test_dar_without_a_reference_is_vmpo():
    # alpha -> 0 at beta = eta: the weights approach V-MPO's linearly in alpha.
    samples = batch((65, 1.0, 0, "continuous"))
    possible = samples._replace(anchor_log_probs=jnp.maximum(samples.anchor_log_probs, -200.0))
    possible = possible._replace(anchor_log_probs=possible.anchor_log_probs.at[1].set(samples.sampler_log_probs))
    vmpo = step(em.GempiSpec((em.Anchor("old", 0.7),)), {}, possible._replace(anchor_log_probs=possible[2][1:]))
    gaps = []
    for alpha in (1e-2, 1e-3, 1e-4):
        dar = step(em.GempiSpec((em.Anchor("ref", alpha), em.Anchor("old", 0.7))), {}, possible)
        gaps.append(float(jnp.max(jnp.abs(dar.weights - vmpo.weights))))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-4


@given(CASE, st.sampled_from([1e-3, 7.0, 1e3]))
def test_scaling_coefficients_with_advantages_changes_nothing(case, factor):
    samples = batch(case)
    weigh = jax.jit(lambda s, c: em.normalize_weights(log_weights(s, c), where=s.mask))
    coefficients = jnp.array([0.5, 1.5])
    scaled = samples._replace(advantages=factor * samples.advantages)
    tolerance = 1e-3 * max(1.0, case[1])
    np.testing.assert_allclose(
        weigh(scaled, factor * coefficients), weigh(samples, coefficients), rtol=tolerance, atol=1e-6
    )


def test_limits_of_the_temperature():
    samples = batch((65, 1.0, 3, "continuous"))
    weigh = jax.jit(lambda c: em.normalize_weights(log_weights(samples, c), where=samples.mask))
    geometric = oracle(samples._replace(advantages=1e-9 * samples.advantages), [0.25, 0.75])
    np.testing.assert_allclose(weigh(jnp.array([0.25e6, 0.75e6])), geometric, rtol=1e-3)
    possible = np.asarray(samples.mask) & np.all(np.isfinite(samples.anchor_log_probs), axis=0)
    best = np.argmax(np.where(possible, samples.advantages, -np.inf))
    np.testing.assert_allclose(weigh(jnp.array([1e-4, 3e-4]))[best], 1.0, rtol=1e-5)


@given(CASE, st.sampled_from([0.05, 1.0, 20.0]))
def test_the_dual_has_the_gradient_budget_minus_kl_and_is_convex(case, temperature):
    samples = batch((case[0], 1.0, *case[2:]))
    ratios = jnp.maximum(samples.anchor_log_probs, -1e3) - samples.sampler_log_probs[None]
    budgets = jnp.array([0.1, 0.2])
    rng = np.random.default_rng(case[2])
    points = jnp.asarray(temperature * np.exp(rng.normal(size=(2, 2))), jnp.float32)
    value, slope = _dual(points, budgets, samples.advantages, ratios, samples.mask)
    log_weights = em.mixture.log_weights_from_ratios(samples.advantages, ratios, points[0])
    kl = em.anchor_kl(log_weights, ratios, where=samples.mask)
    np.testing.assert_allclose(slope[0], budgets - kl, rtol=1e-3, atol=1e-4)
    # Convex: above every tangent.
    tangent = value[0] + np.dot(slope[0], points[1] - points[0])
    assert float(value[1]) >= float(tangent) - 1e-3 * (1 + abs(float(tangent)))


@jax.jit
def _dual(points, budgets, advantages, ratios, mask):
    def dual(coefficients):
        return em.temperature_dual(coefficients, budgets, advantages, ratios, where=mask)

    return jax.vmap(dual)(points), jax.vmap(jax.grad(dual))(points)


@given(CASE)
def test_ess_and_chi_squared_are_one_number(case):
    samples = batch(case)
    metrics = step(FIXED, {}, samples).metrics
    number = float(jnp.sum(samples.mask))
    if metrics["estep/flat_batch"].mean() == 1:
        number = 0.0
    ess, chi = float(metrics["estep/ess"].mean()), float(metrics["estep/chi2"].mean())
    assert ess == pytest.approx(number / (1 + chi), rel=1e-4)
    assert min(number, 1) - 1e-4 <= ess <= number * (1 + 1e-4)


def test_uniform_weights_give_the_gradient_of_sft():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(8, 5, 7)), jnp.float32)
    tokens = jnp.asarray(rng.integers(0, 7, (8, 5)))
    mask = jnp.asarray(rng.random((8, 5)) < 0.8)
    method = methods.sft()

    def evaluate(logits):
        log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
        return log_probs, Evaluation(log_probs, mask, {}, Counts(jnp.float32(40), jnp.float32(len(mask))))

    def by_method(logits):
        target = method.e_step({}, Samples(jnp.zeros(8), jnp.zeros(8), jnp.zeros((0, 8))))
        return method.m_step({}, target, evaluate(logits)[1]).loss

    def cross_entropy(logits):
        return -jnp.mean(jnp.sum(jnp.where(mask, evaluate(logits)[0], 0.0), axis=-1))

    np.testing.assert_allclose(jax.grad(by_method)(logits), jax.grad(cross_entropy)(logits), rtol=1e-5, atol=1e-8)


def test_rl_em_has_the_target_that_dpo_leaves_implicit():
    # (3) and (4): beta log(q* / pi_ref) is the reward up to one constant per prompt.
    rng = np.random.default_rng(0)
    rewards = jnp.asarray(rng.normal(size=(4, 6)), jnp.float32)
    log_ref = jax.nn.log_softmax(jnp.asarray(rng.normal(size=(4, 6)), jnp.float32))
    beta = 0.3
    log_q = em.solve_target(rewards, log_ref[None], jnp.array([beta]), (numerics.KL,))
    implicit = beta * (log_q - log_ref) - rewards
    np.testing.assert_allclose(implicit, jnp.broadcast_to(implicit[:, :1], implicit.shape), atol=1e-5)
    # On samples of pi_ref the method's weights are the same distribution, per prompt.
    samples = Samples(rewards, log_ref, log_ref[None])
    weights = methods.rl_em(beta).e_step({}, samples).weights
    np.testing.assert_allclose(4 * weights, jax.nn.softmax(rewards / beta, axis=-1), rtol=1e-5)


def test_virel_boltzmann_policy_is_the_target_with_a_uniform_anchor():
    # (14): exp(Q / eps) over actions is (23) with pi_1 uniform, A = Q, lambda = eps.
    values = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)
    uniform = jnp.full((1, 3, 5), -jnp.log(5.0))
    found = em.solve_target(values, uniform, jnp.array([0.2]), (numerics.KL,))
    np.testing.assert_allclose(found, jax.nn.log_softmax(values / 0.2), rtol=1e-5, atol=1e-5)


ROWS = {
    # The document's table "Recovering existing methods": anchors, coefficients or budgets, filter, trust region.
    "sft": (methods.sft(), (), False, False),
    "awr": (methods.awr(), ("old",), False, False),
    "vmpo": (methods.vmpo(temperature=em.Dual()), ("old",), True, True),
    "dar": (methods.dar(), ("ref", "old"), False, False),
    "rl_em": (methods.rl_em(), ("ref",), False, False),
    "rl_em with trust region": (methods.rl_em(epsilon_alpha=0.01), ("ref",), False, True),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_table_of_recovered_methods(name):
    method, anchors, adaptive, constrained = ROWS[name]
    duals = method.init()
    assert method.needs.anchors == anchors
    assert ("temperature" in duals) == adaptive
    assert (method.needs.trust_region is not None) == constrained


def test_published_weights_of_awr_and_dar():
    samples = batch((65, 1.0, 5, "continuous"))
    a, b, p = (np.asarray(x, np.float64) for x in samples[:3])
    mask, number = np.asarray(samples.mask), float(np.sum(samples.mask))
    one = samples._replace(anchor_log_probs=samples.sampler_log_probs[None])
    awr = methods.awr(0.5).e_step({}, one).weights
    np.testing.assert_allclose(awr, mask * np.minimum(np.exp(a / 0.5), 20.0) / number, rtol=1e-4)
    # DAR: (pi_ref / pi_t)^(alpha / (alpha + beta)) exp(A / (alpha + beta)), the product clipped at 20.
    p[1] = b
    dar = methods.dar(0.2, 0.6).e_step({}, samples._replace(anchor_log_probs=jnp.asarray(p, jnp.float32))).weights
    factor = np.exp(0.25 * (p[0] - b)) * np.exp(a / 0.8)
    np.testing.assert_allclose(dar, mask * np.minimum(factor, 20.0) / number, rtol=1e-3)


def test_weights_carry_no_gradient_into_the_loss():
    # (26), (29): the M-step sees w as numbers.
    def loss(weights):
        evaluation = Evaluation(-jnp.ones((3, 2)), jnp.ones((3, 2), bool), {}, Counts(jnp.float32(6), jnp.float32(3)))
        return em.m_step(em.GempiSpec(), {}, Target({"weights": weights}, jnp.zeros(()), {}), evaluation).loss

    assert not np.any(jax.grad(loss)(jnp.ones(3)))
