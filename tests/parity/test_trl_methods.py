"""Our methods, E-step and M-step, on TRL's batches: losses, and gradients in the log-probs, are TRL's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import methods
from gempi_jax.contracts import Counts, Evaluation, Samples
from gempi_jax.em import SampledDivergence
from gempi_jax.numerics import telling
from gempi_jax.numerics.advantages import gae
from tests.parity import trl_golden

GOLDEN = trl_golden.read()
METHODS = {
    "grpo": lambda s: methods.grpo(s["beta"], s["epsilon"]),
    "dapo": lambda s: methods.grpo(s["beta"], s["epsilon"], per_token=True),
    "dr_grpo": lambda s: methods.dr_grpo(s["max_completion_length"], s["beta"], s["epsilon"]),
    "rloo": lambda s: methods.rloo(s["beta"], s["epsilon"]),
}


def batch_of(case):
    """What the world knows of TRL's batch, in float32."""
    batch = GOLDEN.batches[case.batch]
    mask = jnp.asarray(batch.mask)
    tokens = {name: jnp.asarray(getattr(case, f"{name}_log_probs"), jnp.float32) for name in ("old", "ref")}
    return jnp.asarray(batch.rewards, jnp.float32), mask, tokens


def make_samples(method, rewards, mask, tokens):
    """As the language world makes them: the KL's price is taken off the rewards."""
    summed = {name: jnp.where(mask, values, 0.0).sum(-1) for name, values in tokens.items()}
    if method.needs.kl_price:
        rewards = rewards - method.needs.kl_price * (summed["old"] - summed["ref"])
    anchors = [summed[name] for name in method.needs.anchors]
    stacked = jnp.stack(anchors) if anchors else jnp.zeros((0, *rewards.shape))
    return Samples(rewards, summed["old"], stacked, rewards=rewards, signal=telling(rewards, axis=-1))


def evaluate(method, log_probs, mask, tokens):
    divergence = {}
    if method.needs.trust_region is not None:
        measure = method.needs.trust_region.divergence
        assert isinstance(measure, SampledDivergence)
        divergence["kl"] = measure.function(tokens[method.needs.trust_region.towards], log_probs)
    counts = Counts(mask.sum().astype(jnp.float32), mask.any(-1).sum().astype(jnp.float32))
    return Evaluation(log_probs, mask, divergence, counts, tokens["old"] if method.needs.ratio else None)


@pytest.mark.parametrize("name", METHODS)
def test_losses_and_gradients_are_those_of_trl(name):
    case = GOLDEN.cases[name]
    method = METHODS[name](case.settings)
    rewards, mask, tokens = batch_of(case)

    @jax.jit
    def run(log_probs):
        target = method.e_step({}, make_samples(method, rewards, mask, tokens))

        def loss(log_probs):
            return method.m_step({}, target, evaluate(method, log_probs, mask, tokens)).loss

        return jax.value_and_grad(loss)(log_probs)

    loss, gradient = run(jnp.asarray(case.log_probs, jnp.float32))
    np.testing.assert_allclose(gradient, case.grad_log_probs, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(loss, case.loss, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("name", ["ppo_full", "ppo_whitened_rewards"])
def test_ppo_is_trl_s_where_completions_fill_their_width(name):
    # Where they do not, TRL pays the reward one step after the last token; its advantages are given here.
    case = GOLDEN.cases[name]
    settings = case.settings
    method = methods.ppo(
        settings["cliprange"],
        whiten=False,
        value_coefficient=settings["vf_coef"],
        value_clip=settings["cliprange_value"],
    )
    _, mask, tokens = batch_of(case)
    given = {k: jnp.asarray(getattr(case, k), jnp.float32) for k in ("advantages", "old_values", "returns", "values")}
    samples = Samples(
        given["advantages"],
        tokens["old"],
        jnp.zeros((0, *mask.shape)),
        mask,
        signal=mask,
        values=given["old_values"],
        value_targets=given["returns"],
    )

    @jax.jit
    def run(log_probs, values):
        target = method.e_step({}, samples)

        def loss(log_probs, values):
            evaluation = evaluate(method, log_probs, mask, tokens)
            fields = {k: getattr(evaluation, k)[..., None] for k in ("log_probs", "mask", "old_log_probs")}
            counts = evaluation.counts._replace(examples=evaluation.counts.terms)
            return method.m_step({}, target, evaluation._replace(**fields, counts=counts, values=values)).loss

        return jax.value_and_grad(loss, argnums=(0, 1))(log_probs, values)

    loss, gradients = run(jnp.asarray(case.log_probs, jnp.float32), given["values"])
    np.testing.assert_allclose(gradients[0], case.grad_log_probs, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(gradients[1], case.grad_values, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(loss, case.loss, rtol=2e-4, atol=2e-6)


def test_gae_over_tokens_is_trl_s():
    case = GOLDEN.cases["ppo_full"]
    shape = case.old_values.shape
    continues = np.arange(shape[-1]) < shape[-1] - 1
    old = jnp.asarray(case.old_values, jnp.float32)
    following = jnp.concatenate([old[..., 1:], jnp.zeros_like(old[..., :1])], -1)
    discounts = jnp.broadcast_to(case.settings["gamma"] * continues, shape)
    rewards = jnp.asarray(case.token_rewards, jnp.float32)
    estimate = gae(case.settings["lam"])
    advantages, targets = estimate(rewards, discounts, jnp.broadcast_to(continues, shape), old, following)
    np.testing.assert_allclose(targets, case.returns, rtol=1e-5, atol=1e-6)
    # TRL whitens with the variance of N - 1.
    whitened = (advantages - advantages.mean()) / jnp.sqrt(advantages.var(ddof=1) + 1e-8)
    np.testing.assert_allclose(whitened, case.advantages, rtol=1e-4, atol=1e-5)
