"""Scoring: equal to the plain forward pass, in any chunks, on any number of devices, with bounded logits."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import NamedSharding, PartitionSpec

from gempi_jax.em import ExactDivergence, SampledDivergence
from gempi_jax.llm import scoring
from gempi_jax.llm.scoring import hidden_states, score, token_terms
from gempi_jax.models.config import DecoderConfig
from gempi_jax.models.decoder import Decoder

CONFIG = DecoderConfig(
    vocab_size=37,
    hidden_size=16,
    intermediate_size=24,
    num_layers=1,
    num_heads=2,
    initializer_range=0.4,
    residual_dropout=0.2,
)
GROUPS, SAMPLES, WIDTH, LENGTH = 8, 3, 5, 4
LENGTHS = np.array([5, 3, 1, 4, 5, 2, 4, 3])
FORWARD_KL = ExactDivergence(lambda log_p, log_q: jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1))
K1 = SampledDivergence(lambda log_p, log_q: log_p - log_q)


@pytest.fixture(scope="module")
def model():
    return Decoder(CONFIG)


@pytest.fixture(scope="module")
def params(model):
    return jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]


@pytest.fixture(scope="module")
def batch():
    """Prompts, their lengths, completions, and a mask with ragged ends."""
    keys = jax.random.split(jax.random.key(1), 3)
    prompts = jax.random.randint(keys[0], (GROUPS, WIDTH), 0, CONFIG.vocab_size)
    completions = jax.random.randint(keys[1], (GROUPS, SAMPLES, LENGTH), 0, CONFIG.vocab_size)
    ends = jax.random.randint(keys[2], (GROUPS, SAMPLES, 1), 1, LENGTH + 1)
    mask = jnp.arange(LENGTH)[None, None] < ends
    return prompts, jnp.asarray(LENGTHS), completions, mask


@pytest.fixture(scope="module")
def scorer(model):
    return jax.jit(functools.partial(score, model))


@pytest.fixture
def no_batch_is_small(monkeypatch):
    """Chunks even where there is nothing to save."""
    monkeypatch.setattr(scoring, "FEWEST_POSITIONS", 1)


def head_inputs(batch):
    """Random hidden states of two policies in front of the head."""
    keys = jax.random.split(jax.random.key(2), 2)
    shape = (GROUPS, SAMPLES, LENGTH, CONFIG.hidden_size)
    return *(jax.random.normal(key, shape) for key in keys), batch[2], batch[3]


def objective(model, divergence, chunk_size, params, hidden, frozen, completions, mask):
    """One number that all three terms enter, and the terms."""
    terms = token_terms(
        model, params, hidden, completions, mask, frozen=frozen, divergence=divergence, chunk_size=chunk_size
    )
    return terms.log_probs.sum() + 0.3 * terms.entropy.sum() + 0.7 * (terms.divergence**2).sum(), terms


def test_scores_are_those_of_the_unpadded_forward_pass(model, params, batch, scorer):
    prompts, _, completions, mask = batch
    got = scorer(params, *batch)
    tokens = np.zeros((GROUPS, SAMPLES, WIDTH + LENGTH), np.int32)
    for group, length in enumerate(LENGTHS):
        tokens[group, :, :length] = prompts[group, :length]
        tokens[group, :, length : length + LENGTH] = completions[group]
    log_probs = jax.jit(lambda tokens: jax.nn.log_softmax(model.apply({"params": params}, tokens)))(tokens)
    log_probs = np.asarray(log_probs)
    for group, length in enumerate(LENGTHS):
        rows = log_probs[group, :, length - 1 : length + LENGTH - 1]
        expected = np.take_along_axis(rows, np.asarray(completions)[group, ..., None], -1)[..., 0]
        np.testing.assert_allclose(got.log_probs[group], np.where(mask[group], expected, 0), atol=1e-5)
        entropy = -(np.exp(rows) * rows).sum(-1)
        np.testing.assert_allclose(got.entropy[group], np.where(mask[group], entropy, 0), atol=1e-5)
    np.testing.assert_array_equal(got.hidden[:, 0, 0], got.prompt_hidden)
    assert (np.asarray(got.log_probs)[~np.asarray(mask)] == 0).all()


def test_what_is_masked_changes_nothing(params, batch, scorer):
    prompts, lengths, completions, mask = batch
    expected = scorer(params, *batch)
    beyond = np.arange(WIDTH) >= LENGTHS[:, None]
    got = scorer(params, jnp.where(beyond, 7, prompts), lengths, jnp.where(mask, completions, 7), mask)
    chex.assert_trees_all_equal(got.log_probs, expected.log_probs)
    chex.assert_trees_all_equal(got.entropy, expected.entropy)


def test_completions_of_one_token(model, params, batch, scorer):
    prompts, lengths, completions, _ = batch
    whole = scorer(params, *batch[:3], jnp.ones_like(batch[3]))
    hidden, prompt_hidden = jax.jit(functools.partial(hidden_states, model))(
        params, prompts, lengths, completions[..., :1]
    )
    np.testing.assert_allclose(hidden, whole.hidden[:, :, :1], atol=1e-5)
    np.testing.assert_allclose(prompt_hidden, whole.prompt_hidden, atol=1e-5)


def test_a_sharded_batch_scores_the_same_without_a_gather(model, params, batch, scorer, no_batch_is_small):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    on_devices = jax.device_put(params, NamedSharding(mesh, PartitionSpec())), *jax.device_put(batch, rows)
    chunked = jax.jit(functools.partial(score, model, chunk_size=GROUPS * 5)).lower(*on_devices).compile()
    assert "all-gather" not in chunked.as_text()
    assert "while" in chunked.as_text()
    got, expected = chunked(*on_devices), scorer(params, *batch)
    chex.assert_trees_all_close(got, jax.tree.map(np.asarray, expected), atol=1e-5)


@pytest.mark.parametrize("divergence", [FORWARD_KL, K1])
def test_chunks_change_neither_values_nor_gradients(model, params, batch, divergence, no_batch_is_small):
    hidden, frozen_hidden, completions, mask = head_inputs(batch)
    frozen = jax.tree.map(lambda x: 0.9 * x, params), frozen_hidden

    def run(chunk_size):
        function = functools.partial(objective, model, divergence, chunk_size)
        gradients = jax.grad(function, argnums=(0, 1, 2), has_aux=True)
        return jax.jit(gradients)(params, hidden, frozen, completions, mask)

    expected, terms = run(10**6)
    # 12 positions per group in chunks of 5: three chunks of 4.
    got, chunked_terms = run(GROUPS * 5)
    chex.assert_trees_all_close(chunked_terms, terms, atol=1e-5)
    chex.assert_trees_all_close(got, expected, atol=1e-4)
    assert max(np.abs(x).max() for x in jax.tree.leaves(got[2])) == 0.0
    assert np.abs(got[0]["lm_head"]).max() > 0
    np.testing.assert_array_equal(np.asarray(got[1])[~np.asarray(mask)], 0.0)
    # More groups than the chunk size: one position per group at a time, padding for none of them.
    chex.assert_trees_all_close(run(1)[0], expected, atol=1e-4)


def test_divergences_of_a_policy_from_itself_vanish_with_their_gradient(model, params, batch):
    hidden, _, completions, mask = head_inputs(batch)

    def total(weights, divergence):
        return token_terms(
            model, weights, hidden, completions, mask, frozen=(params, hidden), divergence=divergence
        ).divergence.sum()

    value, gradient = jax.jit(jax.value_and_grad(lambda weights: total(weights, FORWARD_KL)))(params)
    np.testing.assert_allclose(value, 0.0, atol=1e-5)
    np.testing.assert_allclose(gradient["lm_head"], 0.0, atol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda weights: total(weights, K1))(params), 0.0, atol=1e-5)


def test_the_logits_of_the_batch_never_exist_at_once(model, params, batch, no_batch_is_small):
    hidden, frozen_hidden, completions, mask = head_inputs(batch)

    def shapes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (out.aval.shape for out in equation.outvars)
            for inner in jaxprs_in_params(equation.params):
                yield from shapes(inner)

    chunk = GROUPS * 2
    function = jax.grad(functools.partial(objective, model, FORWARD_KL, chunk), argnums=(0, 1), has_aux=True)
    jaxpr = jax.make_jaxpr(function)(params, hidden, (params, frozen_hidden), completions, mask).jaxpr
    logits = [np.prod(shape) for shape in shapes(jaxpr) if shape and shape[-1] == CONFIG.vocab_size]
    assert max(logits) == max(chunk, CONFIG.hidden_size) * CONFIG.vocab_size


def test_dropout_follows_its_key(model, params, batch):
    run = jax.jit(lambda key: hidden_states(model, params, *batch[:3], dropout_key=key)[0])
    first, again, other = (run(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_hidden_states_in_bfloat16_give_log_probs_in_float32(params, batch):
    got = jax.jit(functools.partial(score, Decoder(CONFIG, jnp.bfloat16)))(params, *batch)
    assert got.hidden.dtype == jnp.bfloat16
    assert got.log_probs.dtype == got.entropy.dtype == jnp.float32


def test_bad_arguments_are_named(model, params, batch):
    hidden, _, completions, mask = head_inputs(batch)
    with pytest.raises(ValueError, match=r"needs frozen="):
        token_terms(model, params, hidden, completions, mask, divergence=K1)
    with pytest.raises(ValueError, match="chunk_size is 0"):
        token_terms(model, params, hidden, completions, mask, chunk_size=0)
