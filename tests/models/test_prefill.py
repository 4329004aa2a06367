"""Prompts in chunks: the numbers of one pass, without its memory."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.models import Band, Decoder, DecoderConfig, Dynamic, Rotary, prefill

CONFIG = DecoderConfig(
    vocab_size=19,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=2,
    # A window narrower than a chunk, and rotations that depend on the whole prompt's length.
    bands=(Band(window=2), Band(positions=Rotary(scaling=Dynamic(factor=2.0, trained=4)))),
)
LENGTHS = jnp.array([7, 3, 1])
PROMPTS = jax.random.randint(jax.random.key(1), (3, 7), 0, 19)


@pytest.fixture(scope="module")
def model():
    return Decoder(CONFIG)


@pytest.fixture(scope="module")
def params(model, random_params):
    return random_params(model)


def test_chunks_give_the_states_the_prefix_and_the_gradient_of_one_pass(model, params):
    def loss(params, chunk):
        hidden, prefix = prefill(model, params, PROMPTS, LENGTHS, chunk=chunk)
        values = sum(jnp.square(layer.values[0]).sum() for layer in prefix.layers)
        return jnp.square(hidden[0]).sum() + values, (hidden, prefix)

    options = {"xla_backend_optimization_level": 0}  # compiles in half the time
    gradient = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1, compiler_options=options)
    expected_gradient, (expected, prefix) = gradient(params, None)
    # 7 tokens in chunks of 3: the last chunk ends with the prompt and reads positions 4 and 5 again.
    got_gradient, (got, other) = gradient(params, 3)
    real = np.arange(7) < np.asarray(LENGTHS)[:, None]
    np.testing.assert_allclose(got[real], expected[real], atol=1e-5)
    for ours, theirs, width in zip(other.layers, prefix.layers, (2, 7), strict=True):
        kept = np.arange(width) < np.asarray(LENGTHS)[:, None]
        for array, right in zip(ours, theirs, strict=True):
            assert array.shape == right.shape == (3, 2, width, 8)
            np.testing.assert_allclose(np.moveaxis(array, 2, 1)[kept], np.moveaxis(right, 2, 1)[kept], atol=1e-5)
    jax.tree.map(
        lambda got, right: np.testing.assert_allclose(got, right, rtol=1e-3, atol=1e-3), got_gradient, expected_gradient
    )


def test_the_memory_is_that_of_a_chunk():
    config = dataclasses.replace(CONFIG, bands=(), hidden_size=32, intermediate_size=64)
    model, width = Decoder(config), 1024
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    prompts, lengths = jax.ShapeDtypeStruct((2, width), jnp.int32), jax.ShapeDtypeStruct((2,), jnp.int32)

    def temporary(chunk):
        run = jax.jit(functools.partial(prefill, model, chunk=chunk))
        return run.lower(params, prompts, lengths).compile().memory_analysis().temp_size_in_bytes

    weights = 2 * config.num_heads * width * width * 4  # bytes of one layer's attention weights over whole prompts
    assert temporary(None) > weights
    assert temporary(64) < weights / 4


def test_a_chunk_of_nothing_is_an_error(model, params):
    with pytest.raises(ValueError, match="chunk is 0; give at least 1"):
        prefill(model, params, PROMPTS, LENGTHS, chunk=0)
