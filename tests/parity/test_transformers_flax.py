"""Checkpoints of transformers' Flax classes: the same parameters, and the same logits where the class is right."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.llm.hf import load_pretrained, save_pretrained
from gempi_jax.llm.hf.flax_models import FlaxPolicy, load_flax_policy
from gempi_jax.llm.hf.pretrained import Pretrained
from gempi_jax.models import init_cache

transformers = pytest.importorskip("transformers")
if not hasattr(transformers, "FlaxPreTrainedModel"):
    pytest.skip("this version of transformers has no Flax classes", allow_module_level=True)

TOKENS = jnp.asarray(np.random.default_rng(0).integers(3, 37, (2, 7)))
SIZES = {"vocab_size": 37, "hidden_size": 16, "num_attention_heads": 4, "max_position_embeddings": 16}
LLAMA = SIZES | {
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "initializer_range": 0.4,
}
GPT2 = {"vocab_size": 37, "n_embd": 16, "n_layer": 1, "n_head": 4, "n_positions": 16, "initializer_range": 0.4}
SETTINGS = {
    "Llama": LLAMA,
    "Mistral": LLAMA,
    "Gemma": LLAMA | {"head_dim": 4},
    "GPT2": GPT2,
    "GPTJ": GPT2 | {"rotary_dim": 4},
    "GPTNeo": {
        "vocab_size": 37,
        "hidden_size": 16,
        "num_layers": 1,
        "num_heads": 4,
        "attention_types": [[["global"], 1]],
        "max_position_embeddings": 16,
        "initializer_range": 0.4,
    },
    "OPT": SIZES | {"num_hidden_layers": 1, "ffn_dim": 20, "word_embed_proj_dim": 16, "init_std": 0.4},
    "XGLM": {
        "vocab_size": 37,
        "d_model": 16,
        "ffn_dim": 20,
        "num_layers": 1,
        "attention_heads": 4,
        "max_position_embeddings": 16,
        "init_std": 0.4,
    },
    "Bloom": {"vocab_size": 37, "hidden_size": 16, "n_layer": 1, "n_head": 4, "initializer_range": 0.4},
}


@pytest.fixture(autouse=True, scope="module")
def their_broadcasting():
    """The Flax classes add biases of lower rank."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def flax_model(tmp_path_factory):
    """Makes a random model of a Flax class, and its folder."""

    @functools.cache
    def make(family, **changes):
        config = getattr(transformers, f"{family}Config")(**(SETTINGS[family] | changes))
        name = {"GPT2": "FlaxGPT2LMHeadModel"}.get(family, f"Flax{family}ForCausalLM")
        model = getattr(transformers, name)(config, seed=0, input_shape=(1, 2))
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        return model, folder

    return make


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_msgpack_weights_give_the_flax_class_its_logits(flax_model, family):
    theirs, folder = flax_model(family)
    assert (folder / "flax_model.msgpack").is_file()
    ours = load_pretrained(folder)
    logits, expected = jax.jit(ours.model.apply)({"params": ours.params}, TOKENS), theirs(TOKENS).logits
    np.testing.assert_allclose(logits, expected, atol=1e-4 * float(jnp.abs(expected).max()))


def test_flax_llama_ignores_tied_embeddings_and_ours_does_not(flax_model):
    theirs, folder = flax_model("Llama", tie_word_embeddings=True)
    ours = load_pretrained(folder)
    assert "lm_head" not in ours.params
    logits, wrong = (
        jax.jit(ours.model.apply)({"params": ours.params}, TOKENS),
        theirs(TOKENS, output_hidden_states=True),
    )
    assert not np.allclose(logits, wrong.logits, atol=0.1)
    # Their body is right; the head that config.json asks for is the embedding.
    right = wrong.hidden_states[-1] @ theirs.params["model"]["embed_tokens"]["embedding"].T
    np.testing.assert_allclose(logits, right, atol=1e-4 * float(jnp.abs(right).max()))


@pytest.mark.parametrize("content", [b"", b"\x81\xa1a", b"\x81\xa1a\x01", b"\xc1" * 40])
def test_a_corrupt_msgpack_says_so(flax_model, tmp_path, content):
    shutil.copy(flax_model("GPT2")[1] / "config.json", tmp_path)
    (tmp_path / "flax_model.msgpack").write_bytes(content)
    with pytest.raises(ValueError, match=r"flax_model.msgpack is truncated or corrupt: .*; download or export"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("family", SETTINGS)
def test_every_pass_of_the_adapter_gives_the_class_its_logits(flax_model, family):
    theirs, folder = flax_model(family)
    policy, params = load_flax_policy(folder)
    prompts, lengths, completions = TOKENS[:, :4], jnp.array([4, 2]), TOKENS[:, None, 4:]

    @jax.jit
    def run(params):
        hidden, prefix = policy.apply({"params": params}, prompts, lengths, method="prefill")
        together = policy.apply({"params": params}, completions, prefix, method="extend")
        cache, steps = init_cache(policy.config, 2, 1, 3, policy.dtype), []
        for step in range(2):
            args = (completions[:, :, step], prefix, cache, step)
            hidden, cache = policy.apply({"params": params}, *args, method="decode")
            steps.append(policy.apply({"params": params}, hidden, method="logits"))
        return policy.apply({"params": params}, TOKENS), together, jnp.stack(steps, 2)

    whole, together, apart = run(params)
    row = jnp.concatenate([prompts[1, :2], completions[1, 0]])[None]
    right, ragged = theirs(TOKENS).logits, theirs(row).logits
    scale = 1e-4 * float(jnp.abs(right).max())
    np.testing.assert_allclose(whole, right, atol=scale)
    np.testing.assert_allclose(together[0, 0], right[0, 4:], atol=scale)
    np.testing.assert_allclose(together[1, 0], ragged[0, 2:], atol=scale)
    np.testing.assert_allclose(apart, together[:, :, :2], atol=scale)


def test_a_changed_policy_is_saved_with_its_own_class(flax_model, tmp_path):
    _, folder = flax_model("OPT")
    policy, params = load_flax_policy(folder)
    gradient = jax.jit(jax.grad(lambda p: policy.apply({"params": p}, TOKENS)[..., 5].sum()))(params)
    params = jax.tree.map(lambda p, g: p + 0.1 * g, params, gradient)
    save_pretrained(tmp_path, Pretrained(policy, params, None))
    again = transformers.FlaxOPTForCausalLM.from_pretrained(tmp_path)
    np.testing.assert_allclose(again(TOKENS).logits, policy.apply({"params": params}, TOKENS), rtol=1e-5, atol=1e-5)


def test_dropout_needs_a_key_and_uses_it(flax_model):
    policy, params = load_flax_policy(flax_model("GPT2")[1])
    with pytest.raises(ValueError, match=r"pass rngs=\{\"dropout\": key\}"):
        policy.apply({"params": params}, TOKENS, deterministic=False)
    noisy = [
        policy.apply({"params": params}, TOKENS, deterministic=False, rngs={"dropout": jax.random.key(seed)})
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert not np.allclose(noisy[0], noisy[2])


def test_an_unknown_pass_and_a_missing_folder_are_named(flax_model, tmp_path):
    policy, params = load_flax_policy(flax_model("GPT2")[1])
    assert isinstance(policy, FlaxPolicy)
    with pytest.raises(ValueError, match="there is no method 'beam'"):
        policy.apply({"params": params}, TOKENS, method="beam")
    with pytest.raises(FileNotFoundError, match="give a model folder"):
        load_flax_policy(tmp_path)
