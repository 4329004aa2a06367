"""What must be true of PPO, DPO and VIREL, whatever the numbers; float64 and automatic differentiation judge."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from gempi_jax import em, losses, numerics
from gempi_jax.models import Decoder, DecoderConfig

SEEDS = st.integers(0, 1000)
DECODER = DecoderConfig(
    vocab_size=11, hidden_size=8, intermediate_size=12, num_layers=1, num_heads=2, max_positions=8, tie_embeddings=True
)
DROPPING = dataclasses.replace(DECODER, residual_dropout=0.2)
TOKENS = jnp.asarray(np.random.default_rng(1).integers(0, 11, (6, 8)))


def token_log_probs(config, params, key=None):
    """log pi of each next token; dropout is on where a key is given."""
    rngs = None if key is None else {"dropout": key}
    logits = Decoder(config).apply({"params": params}, TOKENS, deterministic=key is None, rngs=rngs)
    return jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), TOKENS[:, 1:, None], axis=-1)[..., 0]


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(Decoder(DECODER))


def test_first_pass_of_ppo_without_dropout_and_with(params):
    # Before any update pi_theta is pi_old, so that every ratio should be 1.
    passes = jax.jit(lambda p, key: (token_log_probs(DECODER, p), token_log_probs(DROPPING, p, key)))
    old, dropped = passes(params, jax.random.key(0))
    again = jax.jit(lambda p: token_log_probs(DECODER, p))(params)
    advantages = jnp.array([1.0, -1.0] * 3)
    np.testing.assert_array_equal(losses.sequence_log_ratios(again, old), 0.0)
    assert not any(np.any(x) for x in losses.clip_indicators(losses.log_ratios(again, old), advantages, 0.2))
    low, high = losses.clip_indicators(losses.log_ratios(dropped, old), advantages, 0.2)
    assert float(jnp.mean(low | high)) > 0.05
    assert float(jnp.max(jnp.abs(jnp.exp(losses.sequence_log_ratios(dropped, old)) - 1))) > 0.2


def test_first_pass_of_ppo_is_the_policy_gradient_and_with_dropout_is_not(params):
    advantages = jnp.asarray(np.random.default_rng(2).normal(size=(6, 7)), jnp.float32)

    def gradients(p, key):
        old = token_log_probs(DECODER, p)

        def surrogate(log_probs):
            return jnp.mean(losses.clipped_surrogate(losses.log_ratios(log_probs, old), advantages, 0.2))

        ppo = jax.grad(lambda x: surrogate(token_log_probs(DECODER, x)))
        plain = jax.grad(lambda x: -jnp.mean(advantages * token_log_probs(DECODER, x)))
        spoilt = jax.grad(lambda x: surrogate(token_log_probs(DROPPING, x, key)))
        likelihood = jax.grad(lambda x: -jnp.mean(advantages * token_log_probs(DROPPING, x, key)))
        return [ravel_pytree(g(p))[0] for g in (ppo, plain, spoilt, likelihood)]

    ppo, plain, spoilt, likelihood = jax.jit(gradients)(params, jax.random.key(0))
    np.testing.assert_allclose(ppo, plain, rtol=1e-4, atol=1e-6)
    # Under the same dropped units the ratio bends the gradient of the likelihood that it should equal.
    assert float(jnp.linalg.norm(spoilt - likelihood)) > 0.1 * float(jnp.linalg.norm(likelihood))


def test_at_dropout_zero_training_and_evaluation_passes_agree(params):
    passes = jax.jit(lambda p, key: (token_log_probs(DECODER, p), token_log_probs(DECODER, p, key)))
    np.testing.assert_array_equal(*passes(params, jax.random.key(0)))


@given(SEEDS, st.sampled_from([0.05, 0.5, 5.0]))
def test_gradient_of_dpo_is_the_analytic_one(seed, beta):
    # -beta E[sigma(r_l - r_w) (grad log pi(y_w) - grad log pi(y_l))] on a softmax policy over 5 responses to 3 prompts.
    rng = np.random.default_rng(seed)
    logits, log_ref = (jnp.asarray(2 * rng.normal(size=(3, 5)), jnp.float32) for _ in range(2))
    log_ref = jax.nn.log_softmax(log_ref)
    won, lost = rng.permuted(np.tile(np.arange(5), (3, 1)), axis=1)[:, :2].T
    rows = np.arange(3)

    def loss(logits):
        ratios = jax.nn.log_softmax(logits) - log_ref
        return jnp.mean(losses.dpo_loss(ratios[rows, won], ratios[rows, lost], beta))

    exact, ref = np.asarray(logits, np.float64), np.asarray(log_ref, np.float64)
    policy = np.exp(exact) / np.exp(exact).sum(axis=1, keepdims=True)
    rewards = beta * (np.log(policy) - ref)
    wrong = 1 / (1 + np.exp(rewards[rows, won] - rewards[rows, lost]))
    # grad log pi(y) in the logits is one-hot(y) - pi.
    scores = np.eye(5)[won] - policy - (np.eye(5)[lost] - policy)
    np.testing.assert_allclose(jax.grad(loss)(logits), -beta * wrong[:, None] * scores / 3, rtol=1e-3, atol=1e-6)


@given(SEEDS, st.sampled_from([0.1, 1.0, 3.0]))
def test_implicit_reward_of_the_optimal_policy_is_the_reward_up_to_a_constant_per_prompt(seed, beta):
    # (3) to (5): pi* of RLHF makes the implicit reward r - beta log Z(x), and the preferences those of r itself.
    rng = np.random.default_rng(seed)
    rewards = jnp.asarray(rng.normal(size=(4, 6)), jnp.float32)
    log_ref = jax.nn.log_softmax(jnp.asarray(rng.normal(size=(4, 6)), jnp.float32))
    optimal = em.solve_target(rewards, log_ref[None], jnp.array([beta]), (numerics.KL,))
    implicit = losses.implicit_reward(optimal, log_ref, beta)
    log_z = jax.nn.logsumexp(log_ref + rewards / beta, axis=-1)
    np.testing.assert_allclose(rewards - implicit, jnp.tile(beta * log_z[:, None], (1, 6)), rtol=1e-4, atol=1e-4)
    by_policy = losses.bradley_terry(implicit[:, 0] - implicit[:, 1])
    np.testing.assert_allclose(by_policy, losses.bradley_terry(rewards[:, 0] - rewards[:, 1]), rtol=1e-3, atol=1e-4)


def test_the_optimal_policy_is_stationary_for_dpo_on_the_preferences_of_the_reward():
    # All ordered pairs of 4 responses, each weighed by its Bradley-Terry probability: DPO's gradient vanishes at pi*.
    rewards, beta = jnp.array([0.3, -1.0, 2.0, 0.5]), 0.4
    log_ref = jax.nn.log_softmax(jnp.array([0.1, 0.5, -0.3, 0.0]))
    won, lost = (jnp.asarray(x) for x in np.nonzero(~np.eye(4, dtype=bool)))
    often = jnp.exp(losses.bradley_terry(rewards[won] - rewards[lost]))

    def loss(logits):
        ratios = jax.nn.log_softmax(logits) - log_ref
        return jnp.sum(often * losses.dpo_loss(ratios[won], ratios[lost], beta))

    optimal = log_ref + rewards / beta
    np.testing.assert_allclose(jax.grad(loss)(optimal), np.zeros(4), atol=1e-6)
    assert np.max(np.abs(jax.grad(loss)(log_ref))) > 0.01


# VIREL: 4 states, 3 actions, a critic that is linear in random features and a softmax actor.
STATES, ACTIONS, WIDTH = 4, 3, 5


def world(seed):
    """Features, rewards, next states, d(s), and the parameters of critic and actor."""
    rng = np.random.default_rng(seed)
    features = jnp.asarray(rng.normal(size=(STATES, ACTIONS, WIDTH)), jnp.float32)
    rewards = jnp.asarray(rng.normal(size=(STATES, ACTIONS)), jnp.float32)
    following = jnp.asarray(rng.integers(0, STATES, (STATES, ACTIONS)))
    state_probs = jnp.asarray(rng.dirichlet(np.ones(STATES)), jnp.float32)
    omega, theta = rng.normal(size=WIDTH), rng.normal(size=(STATES, ACTIONS))
    return features, rewards, following, state_probs, jnp.asarray(omega, jnp.float32), jnp.asarray(theta, jnp.float32)


def critic(omega, features, rewards, following):
    """Q_omega and epsilon_omega, (13), with the Boltzmann policy of temperature 1 inside T."""
    values = features @ omega
    after = values[following]
    residuals = losses.bellman_residuals(
        values, rewards, jnp.full_like(rewards, 0.9), after, losses.boltzmann_log_policy(after, 1.0)
    )
    return values, losses.residual_temperature(residuals, 0.7, 2.0)


@jax.jit
def elbo(omega, theta, features, rewards, following, state_probs):
    values, temperature = critic(omega, features, rewards, following)
    return losses.virel_elbo(values, jax.nn.log_softmax(theta), temperature, state_probs=state_probs)


@jax.jit
def actor_loss(theta, omega, features, rewards, following, state_probs):
    values, temperature = critic(omega, features, rewards, following)
    return losses.virel_actor_loss(values, jax.nn.log_softmax(theta), temperature, state_probs=state_probs)


@jax.jit
def critic_loss(omega, theta, features, rewards, following, state_probs):
    values, temperature = critic(omega, features, rewards, following)
    # E over d(s) pi(a | s) as a mean over states of STATES d(s) sum_a pi Q.
    expected = STATES * state_probs * losses.expected_values(jax.nn.log_softmax(theta), values)
    return losses.virel_critic_loss(expected, temperature)


def close(found, expected):
    """Equal to float32 rounding, relative to the largest entry."""
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * float(jnp.max(jnp.abs(expected))) + 1e-6)


@given(SEEDS)
def test_virel_actors_gradient_is_epsilon_times_the_elbos(seed):
    # (19) is epsilon times the gradient of (15) in theta; the loss descends, hence the sign.
    features, rewards, following, state_probs, omega, theta = world(seed)
    rest = (features, rewards, following, state_probs)
    temperature = critic(omega, *rest[:3])[1]
    close(-jax.grad(actor_loss)(theta, omega, *rest), temperature * jax.grad(elbo, argnums=1)(omega, theta, *rest))


@given(SEEDS)
def test_virel_critics_gradient_is_epsilon_squared_times_the_elbos(seed):
    # (21) is epsilon^2 times the gradient of (15) in omega, through Q and through epsilon.
    features, rewards, following, state_probs, omega, theta = world(seed)
    rest = (features, rewards, following, state_probs)
    temperature = critic(omega, *rest[:3])[1]
    close(-jax.grad(critic_loss)(omega, theta, *rest), temperature**2 * jax.grad(elbo)(omega, theta, *rest))


def test_virel_sampled_actor_averages_to_the_exact_one():
    # Every action as often as pi takes it, so that the mean over samples is the expectation of (19).
    values, temperature = jnp.array([1.0, -0.5, 2.0]), jnp.float32(0.7)
    theta = jnp.log(jnp.array([0.5, 0.25, 0.25]))
    actions = jnp.array([0, 0, 1, 2])

    def sampled(theta):
        log_policy = jax.nn.log_softmax(theta)
        entropies = jnp.full((4,), numerics.categorical_entropy(log_policy))
        return losses.virel_sampled_actor_loss(log_policy[actions], values[actions], entropies, temperature)

    def exact(theta):
        return losses.virel_actor_loss(values[None], jax.nn.log_softmax(theta)[None], temperature)

    np.testing.assert_allclose(jax.grad(sampled)(theta), jax.grad(exact)(theta), rtol=1e-5, atol=1e-7)


@given(SEEDS)
def test_virel_elbo_is_its_decomposition(seed):
    # (16): L = l(omega) - KL(q_theta || p_omega) - H(d).
    features, rewards, following, state_probs, omega, theta = world(seed)
    values, temperature = critic(omega, features, rewards, following)
    temperature = jnp.maximum(temperature, 0.05)
    log_policy = jax.nn.log_softmax(theta)
    parts = losses.virel_decomposition(values, log_policy, temperature, state_probs)
    value = losses.virel_elbo(values, log_policy, temperature, state_probs=state_probs)
    scale = 1 + float(jnp.max(jnp.abs(values)) / temperature)
    np.testing.assert_allclose(value, parts.log_normalizer - parts.kl - parts.state_entropy, atol=1e-5 * scale)
    # (17) in float64: p_omega sums to 1 over states and actions together.
    log_joint, log_normalizer = losses.joint_log_probs(values, temperature)
    exact = np.asarray(values, np.float64) / float(temperature)
    np.testing.assert_allclose(log_normalizer, exact.max() + np.log(np.exp(exact - exact.max()).sum()), rtol=1e-5)
    np.testing.assert_allclose(np.exp(np.asarray(log_joint, np.float64)).sum(), 1.0, rtol=1e-4 * scale)


@given(SEEDS)
def test_virel_boltzmann_policy_is_the_actors_optimum(seed):
    # (18): argmax_theta L(omega, .) is (14), where the gradient vanishes and no other actor has a larger ELBO.
    features, rewards, following, state_probs, omega, theta = world(seed)
    rest = (features, rewards, following, state_probs)
    values, temperature = critic(omega, *rest[:3])
    best = losses.boltzmann_log_policy(values, temperature)
    np.testing.assert_allclose(jax.grad(actor_loss)(best, omega, *rest), np.zeros((STATES, ACTIONS)), atol=2e-5)
    assert float(elbo(omega, best, *rest)) >= float(elbo(omega, theta, *rest))


def test_virel_steps_of_actor_and_critic_raise_the_elbo():
    # (18) and (20): one small step down each loss is a step up the one ELBO.
    features, rewards, following, state_probs, omega, theta = world(3)
    rest = (features, rewards, following, state_probs)
    before = float(elbo(omega, theta, *rest))
    acted = theta - 0.01 * jax.grad(actor_loss)(theta, omega, *rest)
    between = float(elbo(omega, acted, *rest))
    learnt = omega - 0.01 * jax.grad(critic_loss)(omega, acted, *rest)
    assert before < between < float(elbo(learnt, acted, *rest))
