"""Weighted likelihood as published since: each against its own formula, or another method in a limit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import em, methods
from gempi_jax.contracts import Counts, Evaluation, Samples
from tests.methods.worlds import make_data, make_params, make_samples, world

REWARDS = jnp.array([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
MASK = jnp.ones((1, 4, 1), bool)


def on_policy(rewards, anchors=0, **fields):
    centred = rewards - rewards.mean(-1, keepdims=True)
    told = jnp.broadcast_to((rewards != rewards[:, :1]).any(-1, keepdims=True), rewards.shape)
    zeros = jnp.zeros_like(rewards)
    return Samples(centred, zeros, jnp.zeros((anchors, *rewards.shape)), rewards=rewards, signal=told, **fields)


def weights(method, samples):
    return np.asarray(method.e_step(method.init(), samples).weights)


def loss_of(method, samples, data, params):
    target = method.e_step(method.init(), samples)
    counts = Counts(*world(method).count(data))
    return method.m_step(method.init(), target, world(method).evaluate(params, {}, data, None, counts)).loss


def gradient_of(method, samples, data, params):
    return jax.jit(jax.grad(lambda p: loss_of(method, samples, data, p)))(params)["policy"]["w"]


def test_rest_em_weighs_successes_alike_and_failures_not():
    # Samples are not compared within their prompt: one without a failure counts in full.
    rewards = jnp.concatenate([REWARDS, jnp.ones((1, 4))])
    np.testing.assert_allclose(weights(methods.rest_em(), on_policy(rewards)), np.asarray(rewards) / 7, rtol=1e-6)
    baseline = on_policy(rewards)._replace(advantages=-rewards)  # of a world's, which it does not read
    np.testing.assert_allclose(weights(methods.rest_em(), baseline), np.asarray(rewards) / 7, rtol=1e-6)
    assert not methods.rest_em().needs.baseline


def test_raft_is_the_group_s_target_as_its_temperature_goes_to_0():
    rewards = jnp.array([[0.3, 0.9, 0.1, 0.2], [0.5, 0.0, 0.1, 0.2]])
    cold = em.GempiSpec((em.Anchor("old", 1e-4),), scope=em.Scope.GROUP)
    expected = em.e_step(cold, {}, on_policy(rewards, 1)).weights
    np.testing.assert_allclose(weights(methods.raft(), on_policy(rewards)), expected, atol=1e-6)
    # One of those that tie for the best; a group of equal rewards has none.
    np.testing.assert_array_equal(
        weights(methods.raft(), on_policy(REWARDS)), [[0.5, 0, 0, 0], [0] * 4, [0, 0.5, 0, 0]]
    )


def test_max_rl_is_the_gradient_of_log_p_to_order_k_minus_one():
    # All outcomes of K = 3 draws of a coin with success rate p = sigmoid(x), exactly.
    x, k = jnp.float32(-0.7), 3
    p = float(jax.nn.sigmoid(x))
    total = 0.0
    for outcome in itertools.product((0.0, 1.0), repeat=k):
        probability = np.prod([p if r else 1 - p for r in outcome])
        w = weights(methods.max_rl(), on_policy(jnp.array([outcome])))[0]
        scores = [(1 - p) if r else -p for r in outcome]  # d log pi / dx
        total += probability * np.dot(w, scores)
    expected = p * (1 - p) * (1 - (1 - p) ** (k - 1)) / p
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_max_rl_of_rewards_below_0_says_nothing():
    # The mean of such rewards is no rate of success: a ratio to it would have the wrong sign, or no bound.
    target = methods.max_rl().e_step({}, on_policy(jnp.array([[1.0, -1.0, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0]])))
    np.testing.assert_allclose(target.weights, [[0.0] * 4, [3 / 8, -1 / 8, -1 / 8, -1 / 8]], rtol=1e-6)


def test_var_is_rl_em_where_no_policy_sampled():
    samples = on_policy(REWARDS, 1)._replace(anchor_log_probs=jnp.log(jnp.full((1, 3, 4), 0.1).at[0, 0, 0].set(0.4)))
    var = methods.var(0.5, scope=em.Scope.GROUP)
    of_b = samples._replace(sampler_log_probs=jnp.full((3, 4), -7.0))
    # A group's common factor cancels in its Z, so that here a constant b is log b := 0.
    np.testing.assert_allclose(weights(var, of_b), weights(methods.rl_em(0.5), samples), rtol=1e-5)
    # Z in the batch, by hand: pi_ref e^(r / beta), prompts without a success included.
    tilted = np.exp(np.asarray(samples.anchor_log_probs[0]) + np.asarray(REWARDS) / 0.5)
    q = tilted / tilted.sum()
    target = methods.var(0.5).e_step({}, of_b)
    np.testing.assert_allclose(target.weights, q, rtol=1e-5)
    # The samples are all there is: KL = sum q log(q / pi_ref), with nothing left of their number.
    kl = np.sum(q * (np.log(q) - np.asarray(samples.anchor_log_probs[0])))
    np.testing.assert_allclose(target.metrics["estep/kl/ref"].mean(), kl, atol=1e-5)


def test_pmpo_has_a_mean_for_each_of_two_sets_of_a_prompt():
    rewards = jnp.array([[0.9, 0.1, 0.2, 0.8], [1.0, 1.0, 1.0, 0.0], [0.5, 0.5, 0.5, 0.5]])
    # Samples that tie are in one set, so that no success is punished; a flat prompt has none.
    expected = [[0.15, -0.35, -0.35, 0.15], [0.1, 0.1, 0.1, -0.7], [0.0] * 4]
    found = methods.pmpo(0.3).e_step({}, on_policy(rewards))
    np.testing.assert_allclose(found.weights, np.array(expected) / 2, rtol=1e-5)
    metrics = {name: float(metric.mean()) for name, metric in found.metrics.items()}
    sizes = np.abs(np.array(expected))
    np.testing.assert_allclose(metrics["estep/ess"], sizes.sum() ** 2 / (sizes**2).sum(), rtol=1e-5)
    np.testing.assert_allclose(metrics["estep/selected_fraction"], 8 / 12, rtol=1e-6)
    np.testing.assert_allclose(metrics["estep/flat_groups"], 1 / 3, rtol=1e-6)


def test_pmpo_of_the_better_set_alone_is_rest_em_by_prompt():
    spec = em.GempiSpec(filter=em.Threshold(0.5), transform=em.Rewards(), scope=em.Scope.GROUP)
    live = REWARDS[jnp.array([0, 2])]
    by_prompt = em.e_step(spec, {}, on_policy(live)).weights
    np.testing.assert_allclose(weights(methods.pmpo(1.0, 0.0), on_policy(live)), by_prompt, rtol=1e-6)
    assert methods.pmpo(1.0, 0.0).needs.trust_region is None


def test_pmpo_s_optimum_on_a_finite_support():
    # Samples are the whole support of one prompt: q+ = (1/2, 1/2, 0, 0), q- = (0, 0, 1/2, 1/2), and the loss
    # -sum (alpha q+ - (1 - alpha) q-) log pi - beta sum pi_ref log pi is least at c / sum(c), where c >= 0.
    ref = jnp.array([0.1, 0.2, 0.3, 0.4])
    log_ref = jnp.log(ref)

    def gradient(method, logits):
        target = method.e_step({}, on_policy(jnp.array([[0.9, 0.8, 0.2, 0.1]])))

        def loss(logits):
            log_pi = jax.nn.log_softmax(logits)
            kl = jnp.full((1, 4, 1), jnp.sum(ref * (log_ref - log_pi)))
            counts = Counts(jnp.float32(4.0), jnp.float32(4.0))
            return method.m_step({}, target, Evaluation(log_pi[None, :, None], MASK, {"kl": kl}, counts)).loss

        return jax.grad(loss)(logits)

    half = jnp.array([0.5, 0.5, -0.5, -0.5])
    c = 0.5 * half + 2.0 * ref  # alpha = 1/2, beta = 2: (.45, .65, .35, .55)
    np.testing.assert_allclose(gradient(methods.pmpo(0.5, 2.0), jnp.log(c)), jnp.zeros(4), atol=1e-6)
    # At beta = 1/2 c_3 = -.25 + .15 < 0: its log-probability falls however low it is, there is no optimum.
    for depth in (0.0, -5.0, -50.0):
        slope = gradient(methods.pmpo(0.5, 0.5), log_ref.at[2].add(depth))
        assert slope[2] > 0.05


def test_wd1_sums_to_nothing_and_is_v_mpo_on_its_better_side():
    samples = on_policy(REWARDS, 1)
    found = weights(methods.wd1(0.5), samples)
    np.testing.assert_allclose(found.sum(), 0.0, atol=1e-6)
    np.testing.assert_array_equal(found[1], 0.0)
    spec = em.GempiSpec((em.Anchor("old", 0.5),))
    plus = em.e_step(spec, {}, samples).weights
    minus = em.e_step(spec, {}, samples._replace(advantages=-samples.advantages)).weights
    np.testing.assert_allclose(found, plus - minus, atol=1e-6)
    flat = methods.wd1().e_step({}, on_policy(jnp.full((2, 4), 0.3), 1))
    assert not bool(flat.signal)
    np.testing.assert_array_equal(flat.weights, 0.0)


def test_wd1_has_no_ratio_where_its_mixture_sampled():
    lam, beta = 0.7, 0.3
    rng = np.random.default_rng(0)
    ref, old = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)
    samples = on_policy(REWARDS, 2)._replace(
        anchor_log_probs=jnp.stack([ref, old]), sampler_log_probs=(beta * ref + lam * old) / (lam + beta)
    )
    found = weights(methods.wd1(lam, beta), samples)
    np.testing.assert_allclose(found, weights(methods.wd1(lam + beta), on_policy(REWARDS, 1)), atol=1e-6)
    # Elsewhere there is: of samples of pi_t, (pi_ref / pi_t)^(psi beta).
    of_old = weights(methods.wd1(lam, beta), samples._replace(sampler_log_probs=old))
    told = np.array([True, False, True])[:, None]
    tilts = [np.exp(sign * np.asarray(samples.advantages) + beta * np.asarray(ref - old)) * told for sign in (1, -1)]
    np.testing.assert_allclose(of_old, tilts[0] / tilts[0].sum() - tilts[1] / tilts[1].sum(), atol=1e-6)


def test_dar_as_published_standardises_over_the_batch():
    rng = np.random.default_rng(1)
    rewards, (ref, old) = rng.normal(size=(3, 4)), rng.normal(size=(2, 3, 4))
    samples = on_policy(jnp.asarray(rewards, jnp.float32), 2)._replace(
        anchor_log_probs=jnp.asarray([ref, old], jnp.float32), sampler_log_probs=jnp.asarray(old, jnp.float32)
    )
    a = rewards - rewards.mean(-1, keepdims=True)
    a = a / a.std()
    expected = np.minimum(np.exp((a + 0.005 * (ref - old)) / 0.05), 20.0) / 12
    np.testing.assert_allclose(weights(methods.dar(0.005, 0.045, standardized=True), samples), expected, rtol=1e-4)
    own = np.exp((a + 0.005 * (ref - old)) / 0.05)
    normalised = weights(methods.dar(0.005, 0.045, standardized=True, scope=em.Scope.GROUP), samples)
    np.testing.assert_allclose(normalised, own / own.sum(-1, keepdims=True) / 3, rtol=1e-4, atol=1e-9)


def test_topr_is_reinforce_on_successes_and_on_the_first_pass():
    data, params = make_data(), make_params()
    topr, plain = methods.topr(), methods.reinforce()
    first = data._replace(old_logits=data.features @ params["policy"]["w"])
    for batch, positive in ((first, False), (data, True)):
        samples = make_samples(topr, batch)
        if positive:
            samples = samples._replace(rewards=samples.rewards + 0.5)
        given = samples._replace(advantages=samples.rewards - 0.5, signal=None)
        found, expected = (gradient_of(*each, batch, params) for each in ((topr, samples), (plain, given)))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    # Elsewhere what is punished already weighs less: -w min(1, pi / pi_t) by hand.
    samples = make_samples(topr, data)
    evaluation = world(topr).evaluate(params, {}, data, None, Counts(*world(topr).count(data)))
    w = np.asarray(topr.e_step({}, samples).weights)
    log_pi = np.asarray(jnp.where(data.mask, evaluation.log_probs, 0.0).sum(-1))
    kept = np.where(w < 0, np.minimum(1.0, np.exp(log_pi - np.asarray(evaluation.old_log_probs.sum(-1)))), 1.0)
    np.testing.assert_allclose(loss_of(topr, samples, data, params), -(w * kept * log_pi).sum(), rtol=1e-5)


def test_map_adds_its_prior_once():
    data, params = make_data(), make_params()
    samples = make_samples(methods.sft(), data)
    plain, prior = (loss_of(m, samples, data, params) for m in (methods.sft(), methods.map_sft(0.3)))
    np.testing.assert_allclose(prior - plain, 0.3 * 0.5 * jnp.square(params["policy"]["w"]).sum(), rtol=1e-5)
    assert methods.map_sft(0.0, 0.1).needs.snapshots == ("ref",)
    with pytest.raises(ValueError, match="give one that is positive"):
        methods.map_sft(0.0)


def test_mpo_is_v_mpo_by_group_without_a_filter():
    samples = make_samples(methods.mpo(), make_data())
    same = methods.vmpo(0.1, top_k_fraction=1.0, scope=em.Scope.GROUP)
    np.testing.assert_allclose(weights(methods.mpo(), samples), weights(same, samples), rtol=1e-6)
