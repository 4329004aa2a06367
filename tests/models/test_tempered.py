"""A policy at a temperature is one distribution in sampling, scoring and fitting."""

import jax
import jax.numpy as jnp
import numpy as np

from gempi_jax.llm.generate import generate
from gempi_jax.llm.scoring import score
from gempi_jax.models import Decoder, DecoderConfig, Tempered, tempered

MODEL = Decoder(DecoderConfig(vocab_size=11, hidden_size=16, intermediate_size=16, num_layers=1, num_heads=2))
PROMPTS = jnp.array([[1, 2, 3], [4, 5, 0]], jnp.int32)
LENGTHS = jnp.array([3, 2], jnp.int32)


def completions(model, params, **options):
    options = {"num_samples": 3, "max_new_tokens": 5, "eos_id": 0, **options}
    return generate(model, params, PROMPTS, LENGTHS, jax.random.key(7), **options)


def test_its_samples_are_those_of_the_sampler_at_that_temperature_and_its_own(random_params):
    params = random_params(MODEL)
    model = tempered(MODEL, 0.5)
    assert tempered(MODEL, 1.0) is MODEL
    assert isinstance(model, Tempered)
    own, corrected = completions(model, params), completions(MODEL, params, temperature=0.5)
    np.testing.assert_array_equal(own.tokens, corrected.tokens)
    np.testing.assert_allclose(own.sampler_log_probs, corrected.sampler_log_probs, atol=1e-5)
    # Samples are the policy's own: no importance weight is needed, where the model at 1 is another distribution.
    np.testing.assert_array_equal(own.sampler_log_probs, own.model_log_probs)
    assert np.abs(corrected.sampler_log_probs - corrected.model_log_probs).max() > 0.1


def test_it_is_scored_as_it_samples(random_params):
    params = random_params(MODEL)
    model = tempered(MODEL, 0.7)
    written = completions(model, params)
    scores = score(model, params, PROMPTS, LENGTHS, written.tokens, written.mask)
    np.testing.assert_allclose(scores.log_probs, written.model_log_probs, atol=1e-5)
