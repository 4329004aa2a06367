"""Frozen policies of a run: what each is a copy of, and what a batch's scores say of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.llm.generate import generate
from gempi_jax.methods import METHODS
from gempi_jax.models import Adapted, Decoder, DecoderConfig, LoRA, init_adapters, merge_adapters
from gempi_jax.runners.baselines import BASELINES
from gempi_jax.runners.batch import Batch
from gempi_jax.runners.networks import Policy
from gempi_jax.runners.optimizers import build_optimizers
from gempi_jax.runners.phase import fresh_state
from gempi_jax.runners.scoring import Advantages, Reader, score_batch
from gempi_jax.runners.settings import PhaseSettings
from gempi_jax.training.state import TrainState

SIZES = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_layers": 1, "num_heads": 2}
MODEL, LORA = Decoder(DecoderConfig(**SIZES)), LoRA(rank=2)
METHOD = METHODS["dar"]()
PROMPTS, LENGTHS = jnp.array([[1, 2, 3], [4, 5, 0]]), jnp.array([3, 2])
COMPLETIONS = jnp.arange(12).reshape(2, 2, 3) % 11


@pytest.fixture(scope="module")
def trees(random_params):
    """A base, and adapters that an earlier phase has trained."""
    base = random_params(MODEL)
    adapters = init_adapters(base, LORA, jax.random.key(1))
    return base, jax.tree.map(lambda leaf: leaf + 0.3, adapters)


def later_phase(model, params):
    """The state in which a phase begins on parameters that have trained already."""
    optimizers, _ = build_optimizers(PhaseSettings(method="dar"), "rl")
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(zero, {"policy": params}, (), {}, {}, {}, jax.random.key(0), zero, zero)
    return fresh_state(Policy(model, None), METHOD, optimizers, state)


def test_the_reference_of_adapters_is_the_base_without_a_copy(trees):
    base, adapters = trees
    state = later_phase(Adapted(MODEL, LORA), adapters)
    assert state.snapshots["ref"] == {}
    jax.tree.map(np.testing.assert_array_equal, state.snapshots["old"], adapters)
    rewards, tokens = jnp.zeros((2, 2)), jnp.zeros((2, 2, 3))
    batch = Batch(PROMPTS, LENGTHS, COMPLETIONS, tokens == 0, tokens, tokens, rewards, jnp.arange(2))

    @jax.jit
    def run(base, state, merged):
        policy = Policy(Adapted(MODEL, LORA), None).on(base)
        ours = score_batch(Reader(policy), Advantages(BASELINES["zero"]), METHOD.needs, state, batch)
        return *ours[1:], [total(base), total(merged)]

    def total(params):
        """log pi(y | x) by the whole sequence's forward pass."""
        values = []
        for prompt, length, group in zip(PROMPTS, (3, 2), COMPLETIONS, strict=True):
            rows = jnp.stack([jnp.concatenate([prompt[:length], completion]) for completion in group])
            log_probs = jax.nn.log_softmax(MODEL.apply({"params": params}, rows))[:, length - 1 : -1]
            values.append(jnp.take_along_axis(log_probs, group[..., None], axis=-1).sum((1, 2)))
        return jnp.stack(values)

    samples, metrics, (ref, old) = run(base, state, merge_adapters(base, adapters, LORA))
    assert METHOD.needs.anchors == ("ref", "old")
    np.testing.assert_allclose(samples.anchor_log_probs, jnp.stack([ref, old]), rtol=1e-4)
    assert abs((old - ref).mean()) > 0.1
    np.testing.assert_allclose(metrics["kl"].mean(), (old - ref).mean(), rtol=1e-3)


def test_the_reference_of_a_policy_that_trains_whole_is_its_start(trees):
    state = later_phase(MODEL, trees[0])
    for name in ("ref", "old"):
        jax.tree.map(np.testing.assert_array_equal, state.snapshots[name], trees[0])


def test_what_the_sampler_said_is_what_a_pass_over_its_completions_says(trees):
    state, key = later_phase(MODEL, trees[0]), jax.random.key(3)

    @jax.jit
    def run(state):
        # Above temperature 1, so that what sampled and the model differ; id 0 ends some completions early.
        out = generate(
            MODEL, trees[0], PROMPTS, LENGTHS, key, num_samples=2, max_new_tokens=3, temperature=1.5, eos_id=(0, 1, 2)
        )
        shift = out.sampler_log_probs - out.model_log_probs
        rewards = jnp.arange(4.0).reshape(2, 2)
        batch = Batch(PROMPTS, LENGTHS, out.tokens, out.mask, shift, out.model_log_probs, rewards, jnp.arange(2))
        policy = Policy(MODEL, None)
        return batch, *(
            score_batch(Reader(policy, as_sampled), Advantages(BASELINES["group_mean"]), METHOD.needs, state, batch)
            for as_sampled in (False, True)
        )

    batch, (scored, samples, metrics), (sampled, same, fewer) = run(state)
    assert not batch.mask.all()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), samples, same)
    np.testing.assert_allclose(scored.old_log_probs, sampled.old_log_probs, rtol=1e-5, atol=1e-6)
    assert metrics["sampler_gap"].mean() < 1e-6
    assert set(metrics) - set(fewer) == {"sampler_gap"}
    # -log pi of the sampled tokens, by hand.
    expected = -jnp.where(batch.mask, scored.old_log_probs, 0.0).sum() / batch.mask.sum()
    np.testing.assert_allclose(fewer["entropy"].mean(), expected, rtol=1e-5)
