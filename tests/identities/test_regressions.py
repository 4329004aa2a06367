"""Regressions of log-ratios: each method's formula, and what its paper says of its gradient or its optimum.

Samples are completions of one token; where a policy is enumerated, each of its K actions is written once and pi_base is
uniform, so that a mean over samples is an expectation under pi_base.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import losses, methods
from gempi_jax.contracts import Counts, Evaluation, Samples
from gempi_jax.em import GempiSpec, LeaveOneOut, Signed
from gempi_jax.numerics import centre

GROUPS, K = 3, 4
RNG = np.random.default_rng(0)
REWARDS = jnp.asarray(RNG.normal(size=(GROUPS, K)), jnp.float32)
BASE = jnp.asarray(RNG.normal(-3.0, 1.0, (GROUPS, K)), jnp.float32)
RHO = jnp.asarray(RNG.normal(0.0, 0.5, (GROUPS, K)), jnp.float32)
REFERENCE = jnp.asarray(RNG.normal(size=(GROUPS, 8)), jnp.float32)


def loss(method, rho, rewards=REWARDS, *, base=BASE, reference=REFERENCE, mask=None):
    """The method's loss of one update at log-ratios rho to its base."""
    anchors = jnp.broadcast_to(base, (len(method.needs.anchors), *base.shape))
    samples = Samples(rewards, base, anchors, mask, rewards=rewards, reference_rewards=reference)
    target = method.e_step({}, samples)
    counts = Counts(jnp.float32(rho.size), jnp.float32(rho.size))
    evaluation = Evaluation((base + rho)[..., None], jnp.ones((*rho.shape, 1), bool), {}, counts)
    return method.m_step({}, target, evaluation).loss


def gradient(method, rho=RHO, rewards=REWARDS, **options):
    return jax.jit(jax.grad(functools.partial(loss, method, **options)))(rho, rewards)


def enumerated(values):
    """Rewards of the actions of one prompt, each written once by a uniform base."""
    rewards = jnp.asarray(values, jnp.float32)[None]
    return rewards, jnp.full(rewards.shape, -np.log(rewards.size), jnp.float32)


def tilted(rewards, beta):
    """rho of pi_base e^(r / beta) / Z for a uniform base."""
    return jax.nn.log_softmax(rewards / beta) + np.log(rewards.size)


def test_opmd_has_the_gradient_of_its_paper():
    # d/d rho_i of the mean of (tau rho - A)^2: -2 tau [A - tau/2 d(rho^2)] / N with d(rho^2) = 2 rho, A = r - r-bar.
    tau = 0.3
    by_hand = -2 * tau * (centre(REWARDS, axis=-1) - tau / 2 * 2 * RHO) / RHO.size
    np.testing.assert_allclose(gradient(methods.opmd(tau)), by_hand, rtol=1e-5, atol=1e-7)


def descend(method, rewards, base, steps=400):
    """rho at the optimum over all policies, by Newton's method on the logits."""

    def objective(logits):
        return loss(method, jax.nn.log_softmax(logits)[None] - base, rewards, base=base)

    @jax.jit
    def step(logits, _):
        size = logits.size
        # Shifts of the logits change nothing: the Hessian's null direction is filled.
        hessian = jax.hessian(objective)(logits) + jnp.ones((size, size)) / size + 1e-3 * jnp.eye(size)
        return logits - 0.2 * jnp.linalg.solve(hessian, jax.grad(objective)(logits)), None

    logits, _ = jax.lax.scan(step, jnp.zeros(rewards.size), length=steps)
    assert np.abs(jax.grad(objective)(logits)).max() < 1e-5
    return jax.nn.log_softmax(logits)[None] - base


@pytest.mark.parametrize("name", ["opmd", "oapl"])
def test_the_optimum_of_an_inexact_baseline_solves_its_own_equation(name):
    # Stationary on the simplex: (tau rho - A) e^(-rho) is one number, -mu, for all actions: tau rho + mu e^rho = A.
    tau, (rewards, base) = 0.5, enumerated([0.0, 0.3, 1.0])
    method = {"opmd": methods.opmd(tau), "oapl": methods.oapl(5.0, tau)}[name]
    baseline = {"opmd": rewards.mean(), "oapl": losses.log_mean_exp(rewards, 5.0)[0]}[name]
    rho = descend(method, rewards, base)
    mu = (rewards - baseline - tau * rho) * jnp.exp(-rho)
    np.testing.assert_allclose(mu, mu[0, 0], atol=2e-4)
    assert abs(float(mu[0, 0])) > 0.01
    assert np.abs(rho - tilted(rewards, tau)).max() > 0.01


@pytest.mark.parametrize(
    "method", [methods.oapl(0.5, 0.5), methods.opmd(0.5, log_mean_exp=True), methods.gvpo(0.5), methods.tba(0.5)]
)
def test_with_an_exact_baseline_or_none_the_optimum_is_the_tilted_base(method):
    rewards, base = enumerated([0.0, 0.3, 1.0, -2.0])
    rho = tilted(rewards, 0.5)
    np.testing.assert_allclose(loss(method, rho, rewards, base=base), 0.0, atol=1e-10)
    assert loss(method, 0.9 * rho, rewards, base=base) > 1e-4


def test_a_star_po_takes_its_baseline_from_the_references_alone():
    # beta_1 = beta_2 and the references the enumerated base's own: V* is exact, whatever part of it is learnt from.
    rewards, base = enumerated([0.0, 0.3, 1.0, -2.0])
    rho, method = tilted(rewards, 0.5), methods.a_star_po(0.5, 0.5, reference_samples=4)
    for part in (slice(0, 1), slice(1, 3), slice(None)):
        value = loss(method, rho[:, part], rewards[:, part], base=base[:, part], reference=rewards)
        np.testing.assert_allclose(value, 0.0, atol=1e-10)
    # d/d rho of (beta_2 rho - (r - V*))^2 / N, whatever the group's own rewards are.
    star = 0.5 * np.log(np.exp(np.asarray(REFERENCE, np.float64) / 0.5).mean(-1, keepdims=True))
    by_hand = 2 * 0.1 * (0.1 * RHO - (REWARDS - star)) / RHO.size
    np.testing.assert_allclose(gradient(methods.a_star_po(0.5, 0.1)), by_hand, rtol=1e-4, atol=1e-7)


def test_gvpo_is_half_the_bessel_variance_and_starts_as_rloo():
    residuals = np.asarray(0.1 * RHO - REWARDS, np.float64)
    expected = 0.5 * residuals.var(axis=-1, ddof=1).mean()
    np.testing.assert_allclose(loss(methods.gvpo(0.1), RHO), expected, rtol=1e-5)
    rloo = methods.from_spec(GempiSpec(transform=LeaveOneOut(), weighting=Signed()))
    start = jnp.zeros(RHO.shape)
    np.testing.assert_allclose(gradient(methods.gvpo(0.1), start), 0.1 * gradient(rloo, start), rtol=1e-5, atol=1e-8)


def test_rebel_is_the_authors_loss_and_ipo_in_its_limit():
    eta, pairs = 0.4, slice(0, 2)
    rho, rewards, base = RHO[:, pairs], REWARDS[:, pairs], BASE[:, pairs]
    authors = jnp.mean((rho[:, 0] - rho[:, 1] - eta * (rewards[:, 0] - rewards[:, 1])) ** 2)
    value = loss(methods.rebel(eta), rho, rewards, base=base)
    np.testing.assert_allclose(value, authors / eta**2, rtol=1e-5)
    # eta (r - r') = 1 / (2 beta) for every pair.
    beta = 0.7
    labels = jnp.stack([jnp.full(GROUPS, 1 / (2 * beta * eta)), jnp.zeros(GROUPS)], axis=-1)
    ipo = jnp.mean(losses.ipo_loss(rho[:, 0], rho[:, 1], beta))
    np.testing.assert_allclose(eta**2 * loss(methods.rebel(eta), rho, labels, base=base), ipo, rtol=1e-5)
    # Of more samples all pairs: i < j of four, six.
    terms = [(RHO[:, i] - RHO[:, j]) / eta - (REWARDS[:, i] - REWARDS[:, j]) for i in range(K) for j in range(i)]
    np.testing.assert_allclose(loss(methods.rebel(eta), RHO), np.mean(np.square(terms)), rtol=1e-5)
    assert methods.rebel().needs.kl_price == 0.05


@pytest.mark.parametrize("logarithm", [False, True])
def test_the_optimum_of_qrpo_is_the_tilted_base_by_quadrature(logarithm):
    # A base of 2,000 equally likely actions without ties is nearly one of uniform F: Z is its integral over F, 0 to 1.
    rewards, base = enumerated(np.random.default_rng(1).permutation(2000) ** 3.0)
    method, beta = methods.qrpo(0.3, logarithm=logarithm, reference_samples=2000), 0.3
    gains = (np.argsort(np.argsort(rewards[0])) + 1.0)[None] / 2000
    rho = tilted(np.log(gains) if logarithm else gains, beta)
    np.testing.assert_allclose(loss(method, rho, rewards, base=base, reference=rewards), 0.0, atol=1e-6)
    assert loss(method, 0.9 * rho, rewards, base=base, reference=rewards) > 1e-4


def test_tba_is_a_variance_and_a_multiple_of_gvpo():
    beta = 0.2
    variance = np.asarray(RHO - REWARDS / beta, np.float64).var(axis=-1).mean()
    np.testing.assert_allclose(loss(methods.tba(beta), RHO), variance, rtol=1e-5)
    factor = 2 * (K - 1) / (K * beta**2)
    np.testing.assert_allclose(loss(methods.tba(beta), RHO), factor * loss(methods.gvpo(beta), RHO), rtol=1e-5)
    scaled = factor * gradient(methods.gvpo(beta))
    np.testing.assert_allclose(gradient(methods.tba(beta)), scaled, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["opmd", "oapl", "gvpo", "rebel", "tba"])
def test_groups_without_a_signal_count_and_do_not_move(name):
    # Two prompts of three have one reward each: the third has the gradient that it has among others that tell.
    method = methods.METHODS[name]()
    flat = REWARDS.at[:2].set(jnp.array([[0.1], [0.7]]))
    by_log_prob = gradient(method, RHO, flat)
    assert not np.any(by_log_prob[:2])
    np.testing.assert_allclose(by_log_prob[2], gradient(method)[2], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["a_star_po", "qrpo"])
def test_what_is_compared_with_references_tells_nothing_where_they_are_all_equal(name):
    method = methods.METHODS[name]()
    rewards = jnp.array([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    reference = jnp.ones((3, 8)).at[1, 3].set(0.0)
    options = {"base": BASE[:, :2], "reference": reference}
    moved = np.any(gradient(method, RHO[:, :2], rewards, **options), axis=-1)
    # The second prompt's samples are as good as each other, and better than one of the reference's.
    np.testing.assert_array_equal(moved, [False, True, True])


def test_references_are_asked_for_where_they_are_missing():
    with pytest.raises(ValueError, match=r"reference_rewards is None: .* give both, as Needs\.reference_samples"):
        loss(methods.a_star_po(), RHO, reference=None)


def test_padding_among_the_samples_of_a_group_is_no_sample():
    mask = jnp.arange(K) < 3
    for name in ("opmd", "oapl", "gvpo", "rebel", "tba"):
        method = methods.METHODS[name]()
        padded = gradient(method, mask=jnp.broadcast_to(mask, RHO.shape))
        whole = gradient(method, RHO[:, :3], REWARDS[:, :3], base=BASE[:, :3])
        np.testing.assert_allclose(padded[:, :3], whole, rtol=1e-5, atol=1e-8, err_msg=name)
        assert not np.any(padded[:, 3])
