"""Tiny random models of every family give the logits of transformers' PyTorch classes, from the same folder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.llm.hf import load_pretrained, save_pretrained
from gempi_jax.models import init_cache

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 37,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
    "initializer_range": 0.4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2 = {"vocab_size": 37, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
CASES = {
    "llama": ("Llama", SIZES),
    "llama-tied": ("Llama", SIZES | {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "llama-biases": ("Llama", SIZES | {"attention_bias": True, "mlp_bias": True, "head_dim": 6}),
    "gpt2": ("GPT2", GPT2),
    "gpt2-odd": (
        "GPT2",
        GPT2
        | {
            "n_inner": 24,
            "activation_function": "relu",
            "scale_attn_by_inverse_layer_idx": True,
            "tie_word_embeddings": False,
        },
    ),
}
LENGTH = 24
TOKENS = np.random.default_rng(0).integers(3, 37, (2, LENGTH))


def torch_model(name):
    """A random model; norms and biases, which start at 1 and 0, are moved so that mixing them up shows."""
    family, settings = CASES[name]
    config = getattr(transformers, f"{family}Config")(**settings)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    architecture = {"GPT2": "GPT2LMHeadModel"}.get(family, f"{family}ForCausalLM")
    model = getattr(transformers, architecture)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """The PyTorch model, its folder, and ours."""
    folder = tmp_path_factory.mktemp(request.param)
    theirs = torch_model(request.param)
    theirs.save_pretrained(folder)
    return theirs, folder, load_pretrained(folder)


@functools.lru_cache(maxsize=1)
def forward(model):
    return jax.jit(lambda params, tokens: model.apply({"params": params}, tokens))


def theirs_on(model, tokens):
    with torch.no_grad():
        return model(torch.tensor(tokens), use_cache=False).logits.float().numpy()


def assert_close(ours, theirs, tolerance=1e-4):
    np.testing.assert_allclose(ours, theirs, atol=tolerance * np.abs(theirs).max())


def test_logits_within_and_beyond_the_training_length(case):
    theirs, _, (model, params, _, _) = case
    logits = forward(model)(params, jnp.asarray(TOKENS))
    assert logits.dtype == jnp.float32
    assert_close(logits, theirs_on(theirs, TOKENS))
    assert_close(forward(model)(params, jnp.asarray(TOKENS[:, :10])), theirs_on(theirs, TOKENS[:, :10]))


def test_prefill_extend_and_decode_equal_the_full_pass(case):
    theirs, _, (model, params, _, _) = case
    prompts, completions, lengths = TOKENS[:, :8], TOKENS[:, 8:14], np.array([8, 5])

    @jax.jit
    def run(params, prompts, completions, lengths):
        _, prefix = model.apply({"params": params}, prompts, lengths, method="prefill")
        together = model.apply({"params": params}, completions[:, None], prefix, method="extend")

        def step(cache, index):
            token = completions[:, None, index]
            hidden, cache = model.apply({"params": params}, token, prefix, cache, index, method="decode")
            return cache, hidden

        apart = jax.lax.scan(step, init_cache(model.config, 2, 1, 6), jnp.arange(6))[1]
        return [
            model.apply({"params": params}, hidden, method="logits")[:, 0]
            for hidden in (together, jnp.moveaxis(apart, 0, 2))
        ]

    for logits in run(params, *map(jnp.asarray, (prompts, completions, lengths))):
        for row, length in enumerate(lengths):
            tokens = np.concatenate([prompts[row, :length], completions[row]])[None]
            assert_close(logits[row], theirs_on(theirs, tokens)[0, length:])


def test_the_round_trip_is_bit_identical(case, tmp_path):
    theirs, _, pretrained = case
    save_pretrained(tmp_path, pretrained)
    again = load_pretrained(tmp_path)
    assert again.model == pretrained.model
    jax.tree.map(np.testing.assert_array_equal, again.params, pretrained.params)
    reopened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert type(reopened) is type(theirs)
    before, after = theirs.state_dict(), reopened.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_bfloat16_is_kept_and_computes_within_its_rounding(case, tmp_path):
    _, folder, _ = case
    low = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="eager")
    low.save_pretrained(tmp_path)
    ours = load_pretrained(tmp_path)
    assert ours.params["embedding"].dtype == ours.model.dtype == jnp.bfloat16
    # The same rounded parameters, computed in float32 and in bfloat16.
    exact = theirs_on(low.float(), TOKENS)
    wide = load_pretrained(tmp_path, dtype=jnp.float32)
    assert_close(forward(wide.model)(wide.params, jnp.asarray(TOKENS)), exact)
    assert_close(forward(ours.model)(ours.params, jnp.asarray(TOKENS)), exact, 0.1)
