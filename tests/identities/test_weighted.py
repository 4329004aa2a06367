"""Weighted likelihood as published since: each against its own formula, or another method in a limit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import em, methods
from gempi_jax.contracts import Counts, Samples
from gempi_jax.em.choices import Threshold
from tests.methods.worlds import make_data, make_params, make_samples, world

REWARDS = jnp.array([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])


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
    np.testing.assert_allclose(weights(methods.rest_em(), on_policy(REWARDS)), np.asarray(REWARDS) / 3, rtol=1e-6)


def test_raft_is_the_group_s_target_as_its_temperature_goes_to_0():
    rewards = jnp.array([[0.3, 0.9, 0.1, 0.2], [0.5, 0.0, 0.1, 0.2]])
    cold = em.GempiSpec((em.Anchor("old", 1e-4),), scope=em.Scope.GROUP)
    expected = em.e_step(cold, {}, on_policy(rewards, 1)).weights
    np.testing.assert_allclose(weights(methods.raft(), on_policy(rewards)), expected, atol=1e-6)


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


def test_var_is_rl_em_where_no_policy_sampled():
    samples = on_policy(REWARDS, 1)._replace(anchor_log_probs=jnp.log(jnp.full((1, 3, 4), 0.1).at[0, 0, 0].set(0.4)))
    var = methods.var(0.5, scope=em.Scope.GROUP)
    of_b = samples._replace(sampler_log_probs=jnp.full((3, 4), -7.0))
    np.testing.assert_allclose(weights(var, of_b), weights(methods.rl_em(0.5), samples), rtol=1e-5)
    # Z in the batch, by hand: pi_ref e^(A / beta) of the groups that tell something.
    tilted = np.exp(np.asarray(samples.anchor_log_probs[0]) + np.asarray(samples.advantages) / 0.5)
    tilted[1] = 0.0
    np.testing.assert_allclose(weights(methods.var(0.5), of_b), tilted / tilted.sum(), rtol=1e-5)


def test_pmpo_has_two_sets_with_their_shares():
    rewards = jnp.array([[0.9, 0.1, 0.2, 0.8], [0.4, 0.3, 0.2, 0.1]])
    expected = np.array([[0.3, -0.7, -0.7, 0.3], [0.3, 0.3, -0.7, -0.7]]) / 4
    np.testing.assert_allclose(weights(methods.pmpo(0.3), on_policy(rewards)), expected, rtol=1e-6)
    # Of successes alone, without a reference: ReST-EM.
    ones = jnp.array([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0]])
    best = methods.pmpo(1.0, 0.0)
    np.testing.assert_allclose(weights(best, on_policy(ones)), weights(methods.rest_em(), on_policy(ones)), rtol=1e-6)
    assert best.needs.trust_region is None


def test_pmpo_s_optimum_on_a_finite_support():
    # loss = -sum_y (alpha q+ - (1 - alpha) q-) log pi + beta KL(pi_ref || pi): least at c / sum c where c > 0.
    alpha, beta = 0.5, 2.0
    plus, minus, ref = (jnp.array(x) for x in ([0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.3, 0.4, 0.3]))
    c = alpha * plus - (1 - alpha) * minus + beta * ref

    def loss(logits):
        log_pi = jax.nn.log_softmax(logits)
        return -(alpha * plus - (1 - alpha) * minus) @ log_pi - beta * ref @ log_pi

    np.testing.assert_allclose(jax.grad(loss)(jnp.log(c)), jnp.zeros(3), atol=1e-6)


def test_wd1_sums_to_nothing_and_is_v_mpo_on_its_better_side():
    samples = on_policy(REWARDS)
    found = weights(methods.wd1(0.5), samples)
    np.testing.assert_allclose(found.sum(), 0.0, atol=1e-6)
    np.testing.assert_array_equal(found[1], 0.0)
    plus = em.e_step(em.GempiSpec((em.Anchor("old", 0.5),)), {}, on_policy(REWARDS, 1)).weights
    minus = em.e_step(
        em.GempiSpec((em.Anchor("old", 0.5),)), {}, on_policy(REWARDS, 1)._replace(advantages=-samples.advantages)
    ).weights
    np.testing.assert_allclose(found, plus - minus, atol=1e-6)


def test_topr_is_reinforce_on_successes_and_on_the_first_pass():
    data, params = make_data(), make_params()
    topr, plain = methods.topr(), methods.reinforce()
    first = data._replace(old_logits=data.features @ params["policy"]["w"])
    for batch, positive in ((first, False), (data, True)):
        samples = make_samples(topr, batch)
        if positive:
            samples = samples._replace(advantages=jnp.abs(samples.advantages))
        found, expected = (gradient_of(method, samples, batch, params) for method in (topr, plain))
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


ROWS = {
    "awr": {"coefficient_old": 0.2, "scope": em.Scope.UNNORMALIZED, "weight_clip": 20.0},
    "vmpo": {"coefficient_old": None, "budget_old": 0.3, "temperature": em.Solved(), "top_k_fraction": 0.25},
    "rl_em": {"coefficient_old": None, "coefficient_ref": 0.2, "scope": em.Scope.GROUP},
    "reinforce": {"coefficient_old": None, "weighting": em.Signed()},
    "max_rl": {"coefficient_old": None, "weighting": em.Signed(), "transform": em.RatioToMean()},
    "raft": {"coefficient_old": None, "top_k_fraction": 0.25, "top_k_by_group": True},
    "rest_em": {"coefficient_old": None, "threshold": 0.5},
    "sft": {"coefficient_old": None},
}


@pytest.mark.parametrize("name", ROWS)
def test_gempi_spelled_out_is_the_named_row(name):
    named, spelled = methods.METHODS[name](), methods.gempi(**ROWS[name])
    samples = make_samples(named, make_data())
    np.testing.assert_allclose(weights(spelled, samples), weights(named, samples), rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: methods.gempi(threshold=0.5, top_k_fraction=0.5), "give one filter"),
        (lambda: methods.gempi(penalty=0.1, epsilon_alpha=0.1), "a price or a budget"),
        (lambda: methods.gempi(weighting=em.Signed()), "weights come from advantages alone"),
        (lambda: em.GempiSpec((em.Anchor("ref", 0.1), em.Anchor("ref", 0.2))), "their sum"),
        (lambda: methods.pmpo(1.5), "lies in"),
        (lambda: Threshold(float("nan")), "finite"),
    ],
)
def test_what_means_nothing_cannot_be_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()
