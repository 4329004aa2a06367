"""Policy gradients: REINFORCE on a policy that can be enumerated, RLOO and GRPO against it, PPO's two readings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import methods
from gempi_jax.contracts import Counts, Evaluation, Samples
from gempi_jax.em import Level
from tests.methods.worlds import make_data, make_params, make_samples, world

LOGITS = jnp.array([0.3, -0.2, 1.0])
REWARDS = jnp.array([1.0, -0.5, 0.25])


def gradient(method, actions, rewards, advantages=None, logits=LOGITS):
    """d loss / d logits for groups of sampled actions [G, K] of one term."""
    advantages = rewards - rewards.mean(-1, keepdims=True) if advantages is None else advantages
    log_probs = jax.nn.log_softmax(LOGITS)[actions]
    anchors = jnp.zeros((len(method.needs.anchors), *actions.shape))
    samples = Samples(advantages, log_probs, anchors, rewards=rewards, values=0 * rewards, value_targets=0 * rewards)
    target = method.e_step(method.init(), samples)

    def loss(logits):
        fitted = jax.nn.log_softmax(logits)[actions][..., None]
        counts = Counts(*[jnp.float32(actions.size)] * 2)
        evaluation = Evaluation(fitted, jnp.ones(fitted.shape, bool), {}, counts, log_probs[..., None])
        return method.m_step(method.init(), target, evaluation).loss

    return jax.grad(loss)(logits)


def test_reinforce_is_the_gradient_of_the_expected_reward():
    # Actions in proportion to an enumerated policy: 0.5, 0.25, 0.25 as eight samples, without a baseline.
    logits = jnp.log(jnp.array([0.5, 0.25, 0.25]))
    actions = jnp.array([[0, 0, 0, 0, 1, 1, 2, 2]])
    rewards = REWARDS[actions]
    found = gradient(methods.reinforce(), actions, rewards, rewards, logits)
    expected = jax.grad(lambda x: -jax.nn.softmax(x) @ REWARDS)(logits)
    np.testing.assert_allclose(found, expected, atol=1e-6)


ACTIONS = jnp.array([[0, 1, 2, 0], [2, 2, 1, 0]])


def test_rloo_is_k_over_k_minus_one_times_the_group_mean_baseline():
    rewards = REWARDS[ACTIONS]
    plain = gradient(methods.reinforce(), ACTIONS, rewards)
    np.testing.assert_allclose(gradient(methods.rloo(beta=0.0), ACTIONS, rewards), 4 / 3 * plain, atol=1e-6)


def test_dr_grpo_at_the_first_pass_is_reinforce_with_the_group_mean_over_its_limit():
    rewards = REWARDS[ACTIONS]
    plain = gradient(methods.reinforce(), ACTIONS, rewards)
    np.testing.assert_allclose(gradient(methods.dr_grpo(10), ACTIONS, rewards), plain / 10, atol=1e-6)
    unscaled = methods.grpo(scale_rewards=False)
    np.testing.assert_allclose(gradient(unscaled, ACTIONS, rewards), plain, atol=1e-6)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "ppo", "ppo_sequence"])
def test_the_ratio_is_one_and_nothing_is_clipped_on_the_first_pass(name):
    method, data, params = methods.METHODS[name](), make_data(), make_params()
    data = data._replace(old_logits=data.features @ params["policy"]["w"])
    target = method.e_step(method.init(), make_samples(method, data))
    counts = Counts(*world(method).count(data))
    evaluation = world(method).evaluate(params, {}, data, jax.random.key(0), counts)
    metrics = method.m_step(method.init(), target, evaluation).metrics
    for metric in ("clip_ratio/low", "clip_ratio/high", "approx_kl"):
        np.testing.assert_allclose(metrics[metric].mean(), 0.0, atol=1e-7)


def test_tokens_and_sequences_agree_where_completions_have_one_token():
    data, params = make_data(length=1), make_params()

    def loss(method):
        samples = make_samples(method, data)
        target = method.e_step(method.init(), samples)

        def of(params):
            counts = Counts(*world(method).count(data))
            evaluation = world(method).evaluate(params, {}, data, jax.random.key(0), counts)
            return method.m_step(method.init(), target, evaluation).loss

        return jax.jit(jax.grad(of))(params)["policy"]["w"]

    both = [loss(methods.ppo(level=level, whiten=False)) for level in Level]
    np.testing.assert_allclose(*both, rtol=1e-5, atol=1e-6)
    both = [loss(methods.vmpo(level=level)) for level in Level]
    np.testing.assert_allclose(*both, rtol=1e-4, atol=1e-6)


def test_a_kl_stop_keeps_the_policy_and_lets_the_critic_go_on():
    from gempi_jax.training.learn import Passes, learn
    from tests.methods.test_contract import OPTIMIZERS, start

    method, data = methods.ppo(kl_stop=1e-9), make_data()
    samples = make_samples(method, data)
    state, _ = jax.jit(lambda s: learn(method, world(method), OPTIMIZERS, s, data, samples, s.key, Passes()))(
        start(method)
    )
    # pi_t has other logits than the policy: its KL is far above the stop already.
    np.testing.assert_array_equal(state.params["policy"]["w"], make_params()["policy"]["w"])
    assert np.any(np.asarray(state.params["value"]["v"]) != np.asarray(make_params()["value"]["v"]))
