"""Tiny random models of every family give the logits of transformers' PyTorch classes, from the same folder."""

import copy
import functools
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.llm import generate
from gempi_jax.llm.hf import load_pretrained, read_config, save_pretrained

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
    "llama-linear": ("Llama", SIZES | {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    "llama-dynamic": ("Llama", SIZES | {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
    "llama-yarn": (
        "Llama",
        SIZES | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}},
    ),
    "llama-3": (
        "Llama",
        SIZES
        | {
            "head_dim": 8,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8,
            },
        },
    ),
    "llama-yarn-odd": (
        "Llama",
        SIZES
        | {
            "head_dim": 16,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
                "mscale": 0.7,
                "mscale_all_dim": 1.2,
                "truncate": False,
                "original_max_position_embeddings": 8,
            },
        },
    ),
    "mistral": ("Mistral", SIZES | {"sliding_window": 5, "head_dim": 4}),
    "mistral-full": ("Mistral", SIZES | {"sliding_window": None}),
    "qwen2": ("Qwen2", SIZES),
    "qwen2-window": ("Qwen2", SIZES | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("Qwen3", SIZES | {"head_dim": 8, "tie_word_embeddings": True}),
    "gemma": ("Gemma", SIZES | {"head_dim": 8}),
    "gemma2": (
        "Gemma2",
        SIZES
        | {
            "head_dim": 8,
            "sliding_window": 5,
            "query_pre_attn_scalar": 12,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "Gemma3Text",
        SIZES
        | {
            "num_hidden_layers": 3,
            "head_dim": 8,
            "sliding_window": 5,
            "sliding_window_pattern": 3,
            "query_pre_attn_scalar": 12,
            "rope_local_base_freq": 100.0,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        },
    ),
    "phi3": ("Phi3", SIZES | {"sliding_window": 5}),
    "phi3-long": (
        "Phi3",
        SIZES
        | {
            "max_position_embeddings": 64,
            "original_max_position_embeddings": 16,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0]},
        },
    ),
    "phi3-partial": ("Phi3", SIZES | {"hidden_size": 32, "partial_rotary_factor": 0.5, "tie_word_embeddings": True}),
    "olmo2": ("Olmo2", SIZES),
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
    named = {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}
    architecture = named.get(family, f"{family}ForCausalLM")
    model = getattr(transformers, architecture)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


@functools.cache
def loaded(name):
    """The PyTorch model and ours, through a folder."""
    theirs = torch_model(name)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return theirs, load_pretrained(folder)


quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""Compiles in half the time programs that run once."""


@functools.cache
def forward(model):
    return quick_jit(lambda params, tokens: model.apply({"params": params}, tokens))


def theirs_on(model, tokens):
    with torch.no_grad():
        return model(torch.tensor(tokens), use_cache=False).logits.float().numpy()


def assert_close(ours, theirs, tolerance=1e-4):
    np.testing.assert_allclose(ours, theirs, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize("name", CASES)
def test_logits_beyond_the_training_length(name):
    theirs, (model, params, _, _) = loaded(name)
    logits = forward(model)(params, jnp.asarray(TOKENS))
    assert logits.dtype == jnp.float32
    assert_close(logits, theirs_on(theirs, TOKENS))


STRIPPED = ("llama", "mistral", "qwen2", "qwen2-window", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "olmo2", "gpt2")
MUST = {
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "use_sliding_window",
}
MUST |= {
    "intermediate_size",
    "head_dim",
    "max_window_layers",
    "n_embd",
    "n_layer",
    "n_head",
    "architectures",
    "model_type",
}


@pytest.mark.parametrize("name", STRIPPED)
def test_what_a_config_does_not_say_is_the_class_s_own_default(name):
    config = type(torch_model(name).config)
    stated = {key: value for key, value in torch_model(name).config.to_dict().items() if key in MUST}
    full = config(**stated).to_dict() | {"architectures": stated["architectures"]}
    assert read_config(stated) == read_config(full)


@pytest.mark.parametrize("name", ["llama-dynamic", "phi3-long"])
def test_logits_within_the_training_length_where_the_length_decides(name):
    theirs, (model, params, _, _) = loaded(name)
    tokens = TOKENS[:, :10]
    assert_close(forward(model)(params, jnp.asarray(tokens)), theirs_on(theirs, tokens))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama-3", "mistral", "gemma3", "gpt2-odd", "qwen3", "olmo2"])
def test_a_ragged_batch_has_the_logits_of_theirs_padded_on_either_side(name, side):
    theirs, (model, params, _, _) = loaded(name)
    lengths = np.array([12, 7, 3])
    rows = np.random.default_rng(2).integers(3, 37, (3, 12))
    real = np.arange(12) < lengths[:, None]
    padded, mask = np.zeros_like(rows), real if side == "right" else real[:, ::-1]
    padded[mask] = rows[real]
    with torch.no_grad():
        places = np.maximum(mask.cumsum(1) - 1, 0)
        kept = {"attention_mask": torch.tensor(mask.astype(int)), "position_ids": torch.tensor(places)}
        expected = theirs(torch.tensor(padded), **kept).logits.numpy()[mask]

    @quick_jit
    def run(params, rows, lengths):
        hidden, _ = model.apply({"params": params}, rows, lengths, method="prefill")
        return model.apply({"params": params}, hidden, method="logits")

    # What stands in the padding, here other tokens, changes nothing.
    assert_close(np.asarray(run(params, jnp.asarray(rows), jnp.asarray(lengths)))[real], expected)


def greedy_of_theirs(model, prompt, count):
    """What ``generate`` of transformers adds to one prompt, with its cache."""
    with torch.no_grad():
        tokens = model.generate(
            torch.tensor(prompt[None]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=count,
            eos_token_id=2,
            pad_token_id=0,
        )
    return tokens[0, len(prompt) :].numpy()


GREEDY = [name for name in CASES if name not in ("llama", "llama-tied", "mistral-full", "qwen2", "gpt2-odd")]


@pytest.mark.parametrize("name", GREEDY)
def test_greedy_generation_is_theirs_token_for_token(name):
    # A prompt longer than the 16 positions of training, one that its completion carries beyond them, one within.
    theirs, (model, params, _, _) = loaded(name)
    lengths, count = np.array([20, 13, 6]), 7
    prompts = np.random.default_rng(1).integers(3, 37, (3, 20))
    run = quick_jit(functools.partial(generate, model, num_samples=1, max_new_tokens=count, temperature=0.0, eos_id=2))
    got = run(params, jnp.asarray(prompts), jnp.asarray(lengths), jax.random.key(0))
    for row, length in enumerate(lengths):
        if name == "phi3-long" and length == 13:
            continue  # Where the other divisors begin, theirs drops the cache and reads the row again; ours keeps it.
        prompt, tokens = prompts[row, :length], np.asarray(got.tokens[row, 0, : got.lengths[row, 0]])
        np.testing.assert_array_equal(tokens, greedy_of_theirs(theirs, prompt, count))
        if name == "llama-dynamic" and length > 6:
            continue  # The frequencies grow with each token while cached keys stay: no full pass has these logits.
        logits = theirs_on(theirs, np.concatenate([prompt, tokens])[None])[0, length - 1 : -1]
        expected = jax.nn.log_softmax(logits)[np.arange(len(tokens)), tokens]
        np.testing.assert_allclose(got.model_log_probs[row, 0, : len(tokens)], expected, atol=2e-4)


@pytest.mark.parametrize("name", ["llama-biases", "qwen2-window", "gemma3", "phi3-long", "olmo2", "gpt2-odd"])
def test_prefill_and_extend_equal_the_full_pass(name):
    theirs, (model, params, _, _) = loaded(name)
    prompts, completions, lengths = TOKENS[:, :8], TOKENS[:, 8:14], np.array([8, 5])

    @quick_jit
    def run(params, prompts, completions, lengths):
        _, prefix = model.apply({"params": params}, prompts, lengths, method="prefill")
        hidden = model.apply({"params": params}, completions[:, None], prefix, method="extend")
        return model.apply({"params": params}, hidden, method="logits")[:, 0]

    logits = run(params, *map(jnp.asarray, (prompts, completions, lengths)))
    for row, length in enumerate(lengths):
        tokens = np.concatenate([prompts[row, :length], completions[row]])[None]
        assert_close(logits[row], theirs_on(theirs, tokens)[0, length:])


@pytest.mark.parametrize("name", CASES)
def test_the_round_trip_is_bit_identical(name, tmp_path):
    theirs, pretrained = loaded(name)
    save_pretrained(tmp_path, pretrained)
    again = load_pretrained(tmp_path)
    assert again.model == pretrained.model
    jax.tree.map(np.testing.assert_array_equal, again.params, pretrained.params)
    reopened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert type(reopened) is type(theirs)
    before, after = theirs.state_dict(), reopened.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


FAMILIES = ("llama", "gpt2", "mistral", "qwen2-window", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "olmo2")


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_is_kept_and_computes_within_its_rounding(name, tmp_path):
    low = copy.deepcopy(loaded(name)[0]).to(torch.bfloat16)
    low.save_pretrained(tmp_path)
    ours = load_pretrained(tmp_path)
    assert ours.params["embedding"].dtype == ours.model.dtype == jnp.bfloat16
    # Back in the folder, bit by bit.
    save_pretrained(tmp_path / "again", ours)
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(tmp_path / "again").params, ours.params)
    # The same rounded parameters, computed in float32 and in bfloat16.
    # (Opened again: casting a live model to bfloat16 and back would leave its rotary frequencies rounded.)
    again = type(low).from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    exact = theirs_on(again, TOKENS)
    wide = load_pretrained(tmp_path, dtype=jnp.float32)
    assert_close(forward(wide.model)(wide.params, jnp.asarray(TOKENS)), exact)
    # Theirs in bfloat16 is the measure of its rounding: ours is no further from the exact logits.
    rounded = type(low).from_pretrained(tmp_path, dtype=torch.bfloat16, attn_implementation="eager").eval()
    logits = forward(ours.model)(ours.params, jnp.asarray(TOKENS))
    ours_off, theirs_off = (np.sqrt(np.mean((x - exact) ** 2)) for x in (logits, theirs_on(rounded, TOKENS)))
    assert ours_off < 1.5 * theirs_off
