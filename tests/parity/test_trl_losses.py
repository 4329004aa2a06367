"""Our terms, reduced as TRL reduces them, are TRL's losses, with their gradients in the log-probs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import losses
from tests.parity import trl_golden

GOLDEN = trl_golden.read()


def rho_of(log_probs, case, mask):
    """[G, K]: log-ratios to the reference, summed over tokens."""
    return losses.sequence_log_ratios(log_probs, case.ref_log_probs, where=mask)


def preference(loss, *extra):
    def fit(log_probs, case, mask):
        chosen, rejected = rho_of(log_probs, case, mask).T
        return jnp.mean(loss(chosen, rejected, case.settings["beta"], *extra))

    return fit


def ipo(log_probs, case, mask):
    # TRL's reading: each log-ratio is a mean over its response's tokens.
    chosen, rejected = (rho_of(log_probs, case, mask) / mask.sum(-1)).T
    return jnp.mean(losses.ipo_loss(chosen, rejected, case.settings["beta"]))


def group_of_pairs(fit, noise):
    def loss(log_probs, case, mask):
        scores = case.settings["beta"] * rho_of(log_probs, case, mask)
        target = jnp.broadcast_to(jnp.log(jnp.array([1 - noise, noise])), scores.shape)
        return jnp.mean(fit(scores, target))

    return loss


def per_token(divide):
    """GRPO's family: clipped surrogate and k3 of every token, in the same mean."""

    def loss(log_probs, case, mask):
        ratios = losses.log_ratios(log_probs, case.old_log_probs, where=mask)
        terms = losses.clipped_surrogate(ratios, case.advantages, case.settings["epsilon"], where=mask)
        terms = terms + case.settings["beta"] * losses.kl_terms(log_probs, case.ref_log_probs, where=mask)
        return divide(terms, case, mask)

    return loss


def rloo(log_probs, case, mask):
    ratios = losses.sequence_log_ratios(log_probs, case.old_log_probs, where=mask)
    return jnp.mean(losses.clipped_surrogate(ratios, case.advantages, case.settings["epsilon"]))


def a_star_po(log_probs, case, mask):
    rewards = jnp.asarray(GOLDEN.batches[case.batch].rewards, jnp.float32)
    baseline = losses.log_mean_exp(rewards, case.settings["beta1"])
    np.testing.assert_allclose(baseline, case.values, rtol=1e-5)
    rho = rho_of(log_probs, case, mask)
    return jnp.mean(losses.log_ratio_regression(rho, rewards, scale=case.settings["beta2"], baseline=baseline))


def ppo(log_probs, case, mask):
    ratios = losses.log_ratios(log_probs, case.old_log_probs, where=mask)
    terms = losses.clipped_surrogate(ratios, case.advantages, case.settings["cliprange"], where=mask)
    return by_token(terms, case, mask)


def by_sequence(terms, case, mask):
    return jnp.mean(terms.sum(-1) / mask.sum(-1))


def by_limit(terms, case, mask):
    return terms.sum() / (mask[..., 0].size * case.settings["max_completion_length"])


def by_token(terms, case, mask):
    return terms.sum() / mask.sum()


FITS = {
    "dpo": preference(losses.dpo_loss),
    "ipo": ipo,
    "rdpo": preference(losses.robust_dpo_loss, 0.1),
    "exo": group_of_pairs(losses.reverse_softmax, 1e-3),
    "nca": group_of_pairs(losses.nca_loss, 0.0),
    "grpo": per_token(by_sequence),
    "dr_grpo": per_token(by_limit),
    "dr_grpo_scaled": per_token(by_limit),
    "dapo": per_token(by_token),
    "rloo": rloo,
    "a_star_po": a_star_po,
    "ppo": ppo,
    "ppo_full": ppo,
    "ppo_whitened_rewards": ppo,
}


def arrays(case):
    """The case in float32."""
    return case._replace(**{k: jnp.asarray(v, jnp.float32) for k, v in case._asdict().items() if hasattr(v, "shape")})


@pytest.mark.parametrize("name", FITS)
def test_losses_and_gradients_in_the_log_probs(name):
    case, mask = arrays(GOLDEN.cases[name]), jnp.asarray(GOLDEN.batches[GOLDEN.cases[name].batch].mask)
    loss, gradient = jax.value_and_grad(lambda x: FITS[name](x, case, mask))(case.log_probs)
    expected = case.loss if case.policy_loss is None else case.policy_loss
    np.testing.assert_allclose(gradient, case.grad_log_probs, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("name", [name for name in FITS if name.startswith("ppo")])
def test_clipped_value_loss_and_its_gradient(name):
    case = arrays(GOLDEN.cases[name])
    mask = case.value_mask > 0

    def loss(values):
        epsilon = case.settings["cliprange_value"]
        return (
            jnp.sum(losses.clipped_value_loss(values, case.old_values, case.returns, epsilon, where=mask)) / mask.sum()
        )

    value, gradient = jax.value_and_grad(loss)(case.values)
    np.testing.assert_allclose(case.settings["vf_coef"] * gradient, case.grad_values, rtol=2e-4, atol=2e-6)
    # Before its coefficient, after the half.
    np.testing.assert_allclose(value, case.value_loss, rtol=1e-5)


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_clip_indicators_are_what_trl_counts(name):
    case, mask = arrays(GOLDEN.cases[name]), jnp.asarray(GOLDEN.batches["groups"].mask)
    log_ratios, where = losses.log_ratios(case.log_probs, case.old_log_probs, where=mask), mask
    if name == "rloo":
        log_ratios, where = log_ratios.sum(-1), jnp.ones(mask.shape[:-1], bool)
    low, high = losses.clip_indicators(log_ratios, case.advantages, case.settings["epsilon"], where=where)
    np.testing.assert_allclose(low.sum() / where.sum(), case.metrics["clip_ratio/low_mean"], rtol=1e-5)
    np.testing.assert_allclose(high.sum() / where.sum(), case.metrics["clip_ratio/high_mean"], rtol=1e-5)
