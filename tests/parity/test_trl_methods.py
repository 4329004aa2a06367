"""Our methods, E-step and M-step, on TRL's batches through our decoder and world: losses and gradients are TRL's."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax import methods
from gempi_jax.contracts import Counts, Evaluation, Samples
from gempi_jax.em import SampledDivergence
from gempi_jax.runners.baselines import BASELINES
from gempi_jax.runners.batch import Batch
from gempi_jax.runners.networks import Policy
from gempi_jax.runners.scoring import Advantages, Reader, score_batch
from gempi_jax.runners.world import LanguageWorld
from gempi_jax.training.state import TrainState
from tests.parity import trl_golden

GOLDEN = trl_golden.read()


def ppo(settings):
    return methods.ppo(
        settings["cliprange"],
        settings["kl_coef"],
        settings["lam"],
        settings["gamma"],
        value_coefficient=settings["vf_coef"],
        value_clip=settings["cliprange_value"],
    )


METHODS = {
    "ppo_full": ppo,
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


def evaluate(method, log_probs, mask, tokens):
    divergence = {}
    if method.needs.trust_region is not None:
        measure = method.needs.trust_region.divergence
        assert isinstance(measure, SampledDivergence)
        divergence["kl"] = measure.function(tokens[method.needs.trust_region.towards], log_probs)
    counts = Counts(mask.sum().astype(jnp.float32), mask.any(-1).sum().astype(jnp.float32))
    return Evaluation(log_probs, mask, divergence, counts, tokens["old"] if method.needs.ratio else None)


class GivenValues(NamedTuple):
    """A value head whose values are its parameters, as TRL's were when the golden values were made."""

    def apply(self, variables, hidden):
        """[G, K, C]."""
        return variables["params"]["values"]


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """The decoder, and the parameters of each policy by name."""
    loaded = {name: trl_golden.load(GOLDEN.weights[name], tmp_path_factory.mktemp(name)) for name in GOLDEN.weights}
    return loaded["policy"].model, {name: one.params for name, one in loaded.items()}


def learn_from(case, method, model, params, change=lambda samples: samples):
    """Loss and gradient of our method on TRL's batch, from the tokens on: scored, E-step, M-step."""
    batch = GOLDEN.batches[case.batch]
    mask, zeros = jnp.asarray(batch.mask), jnp.zeros(batch.mask.shape)
    arrays = *map(jnp.asarray, batch[:3]), mask, zeros, zeros, jnp.asarray(batch.rewards), jnp.arange(len(mask))
    value = {
        name: jnp.asarray(getattr(case, name), jnp.float32)
        for name in ("old_values", "values")
        if case.values is not None
    }
    snapshots = {"old": params["old"], "ref": params["ref"]}
    policy = Policy(model, GivenValues())
    world, reader = LanguageWorld(policy, method.needs), Reader(policy)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(fitted, snapshots):
        old = {"policy": snapshots["old"], "value": {"head": {"values": value.get("old_values")}}}
        state = TrainState(0, old, (), {}, {}, snapshots, jax.random.key(0), 0, 0)
        scored, samples, _ = score_batch(
            reader, Advantages(BASELINES["group_mean"]), method.needs, state, Batch(*arrays)
        )
        target = method.e_step({}, change(samples))
        counts = Counts(*world.count(scored))

        def loss(fitted):
            params = {"policy": fitted, "value": {"head": {"values": value.get("values")}}}
            output = method.m_step({}, target, world.evaluate(params, snapshots, scored, state.key, counts))
            return output.loss, output.metrics

        return jax.value_and_grad(loss, has_aux=True)(fitted)

    return run(params["policy"], snapshots)


def assert_parameters_follow(gradient, case, folder):
    theirs = trl_golden.load(case.grad_params, folder).params
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(theirs))
    for mine, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4 * scale)


@pytest.mark.parametrize("name", METHODS)
def test_losses_and_gradients_from_the_tokens_on_are_those_of_trl(name, policies, tmp_path):
    case = GOLDEN.cases[name]
    (loss, metrics), gradient = learn_from(case, METHODS[name](case.settings), *policies)
    np.testing.assert_allclose(loss, case.loss, rtol=2e-4, atol=2e-6)
    assert_parameters_follow(gradient, case, tmp_path)
    if "clip_ratio/low_mean" in case.metrics:
        for side in ("low", "high"):
            np.testing.assert_allclose(
                metrics[f"clip_ratio/{side}"].mean(), case.metrics[f"clip_ratio/{side}_mean"], rtol=1e-5
            )


def test_ppo_where_completions_are_shorter_than_their_width(policies, tmp_path):
    # TRL pays the reward one step after the last token, whose V is an example, too: its advantages are given here,
    # before they are whitened, and only the policy's part of the loss compares.
    case = GOLDEN.cases["ppo"]
    raw = jnp.asarray(np.where(GOLDEN.batches[case.batch].mask, case.returns - case.old_values, 0.0), jnp.float32)
    (loss, metrics), gradient = learn_from(case, ppo(case.settings), *policies, lambda s: s._replace(advantages=raw))
    value_loss = case.settings["vf_coef"] * metrics["value/loss"].mean()
    np.testing.assert_allclose(loss - value_loss, case.policy_loss, rtol=2e-4, atol=2e-6)
    assert_parameters_follow(gradient, case, tmp_path)


@pytest.mark.parametrize("name", ["ppo_whitened_rewards"])
def test_ppo_on_whitened_rewards_is_trl_s_from_its_advantages_on(name):
    # Rewards that are whitened before GAE are no setting of ours.
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
