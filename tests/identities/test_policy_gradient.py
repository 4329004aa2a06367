"""Policy gradients: REINFORCE on a policy that can be enumerated, RLOO and GRPO against it, PPO's two readings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import methods
from gempi_jax.contracts import Counts, Evaluation, Samples
from gempi_jax.em import Level
from gempi_jax.numerics.advantages import gae
from gempi_jax.training.learn import Passes, learn, take_units
from gempi_jax.training.step import has_stopped, m_stage
from tests.methods.test_contract import OPTIMIZERS, start
from tests.methods.worlds import GROUPS, SAMPLES, make_data, make_params, make_samples, world

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


@pytest.mark.parametrize("kl_stop", [1e-9, None])
def test_a_kl_stop_keeps_the_policy_for_the_rest_of_the_batch_and_lets_the_critic_go_on(kl_stop):
    # pi_t has other logits than the policy: already the first update's KL is far above the stop.
    method, params = methods.ppo(kl_stop=kl_stop), make_params()
    data = make_data()
    samples = make_samples(method, data)
    passes = Passes(updates_per_epoch=4, num_epochs=2)
    run = jax.jit(lambda s: learn(method, world(method), OPTIMIZERS, s, data, samples, s.key, passes))
    state, metrics = run(start(method))
    stays = not np.any(np.asarray(state.params["policy"]["w"]) != np.asarray(params["policy"]["w"]))
    assert stays is (kl_stop is not None)
    assert np.any(np.asarray(state.params["value"]["v"]) != np.asarray(params["value"]["v"]))
    if kl_stop is not None:
        np.testing.assert_allclose(metrics["mstep/stopped_fraction"].mean(), 1.0)


def test_once_stopped_an_update_that_is_near_enough_itself_moves_nothing():
    # Units 0-3 are read by pi_theta as pi_t read them, units 4-7 are far from it: their order decides which updates
    # come after the stop, and none of those may move the policy, though a KL of 0 is far below it.
    method, params, data = methods.ppo(kl_stop=1e-6), make_params(), make_data()
    near = jnp.arange(GROUPS)[:, None, None, None] < GROUPS // 2
    data = data._replace(old_logits=jnp.where(near, data.features @ params["policy"]["w"], data.old_logits))
    samples, state = make_samples(method, data), start(method)
    target = method.e_step({}, samples, ())

    @jax.jit
    def update(state, units, stopped):
        part, examples = take_units((data, target.examples), units)
        options = {"share": 0.5, "stopped": stopped}
        rest = target._replace(examples=examples)
        state, metrics = m_stage(method, world(method), OPTIMIZERS, state, part, rest, state.key, **options)
        return state.params["policy"]["w"], has_stopped(metrics)

    first, last = jnp.arange(GROUPS // 2), jnp.arange(GROUPS // 2, GROUPS)
    moved, stopped = update(state, first, False)
    assert np.any(np.asarray(moved) != np.asarray(params["policy"]["w"]))
    assert not stopped
    for units, before in ((last, False), (first, True)):
        kept, stopped = update(state, units, before)
        np.testing.assert_array_equal(kept, params["policy"]["w"])
        assert stopped


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo"])
def test_units_of_weight_zero_may_be_left_out(name):
    # The first group is flat: without it an update has the same gradient, not one of seven units' mean.
    method, data, params = methods.METHODS[name](), make_data(), make_params()
    rewards = np.random.default_rng(5).normal(size=(GROUPS, SAMPLES))
    rewards[0] = 0.5
    target = method.e_step({}, make_samples(method, data, rewards))
    assert not np.any(target.weights[0])
    assert float(target.importance[0]) == 0.0

    def gradient(units):
        part, examples = take_units((data, target.examples), units)
        counts = Counts(*world(method).count(part), 1.0)

        def loss(params):
            evaluation = world(method).evaluate(params, {}, part, jax.random.key(0), counts)
            return method.m_step({}, target._replace(examples=examples), evaluation).loss

        return jax.jit(jax.grad(loss))(params)["policy"]["w"]

    np.testing.assert_allclose(gradient(jnp.arange(1, GROUPS)), gradient(jnp.arange(GROUPS)), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: methods.grpo(epsilon=1.5), "epsilon, how far the ratio may fall"),
        (lambda: methods.ppo(epsilon=(0.2, -0.3)), "how far the ratio may rise"),
        (lambda: methods.grpo(beta=-0.1), "Penalty.coefficient"),
        (lambda: methods.rloo(beta=-0.1), "with_kl_price: beta"),
        (lambda: methods.ppo(gamma=1.5), "a discount lies in"),
        (lambda: methods.ppo(lam=1.5), "gae: lam"),
        (lambda: methods.ppo(value_clip=0.0), "value_clip"),
        (lambda: methods.ppo(kl_stop=0.0), "kl_stop"),
        (lambda: methods.ppo(entropy_coefficient=-1.0), "with_entropy"),
        (lambda: methods.with_critic(methods.grpo(), methods.Critic(gae(1.0))), "makes its own advantages"),
    ],
)
def test_what_means_nothing_cannot_be_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()
