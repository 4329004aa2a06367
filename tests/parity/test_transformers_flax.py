"""Checkpoints of transformers' Flax classes: the same parameters, and the same logits where the class is right."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

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


@pytest.fixture(params=["safetensors", "msgpack"])
def sharded(request, flax_model, tmp_path):
    """(a model, its folder with the weights in several files, the index's path)."""
    theirs, folder = flax_model("GPT2")
    if request.param == "safetensors":
        save_pretrained(tmp_path, load_pretrained(folder), max_shard_bytes=4000)
    else:
        theirs.save_pretrained(tmp_path, max_shard_size="4KB")
    (index,) = tmp_path.glob("*.index.json")
    assert len(list(tmp_path.glob(f"*.{request.param}"))) > 2
    return theirs, tmp_path, index


def test_shards_with_an_index_give_the_class_its_parameters(sharded):
    theirs, folder, _ = sharded
    policy, params = load_flax_policy(folder)
    assert type(policy.model) is transformers.FlaxGPT2LMHeadModel
    assert jax.tree.structure(params) == jax.tree.structure(theirs.params)
    jax.tree.map(np.testing.assert_array_equal, params, theirs.params)
    # And our decoder reads the same folder, whichever format it has.
    ours = load_pretrained(folder)
    expected = theirs(TOKENS).logits
    logits = jax.jit(ours.model.apply)({"params": ours.params}, TOKENS)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("load", [load_flax_policy, load_pretrained])
def test_a_shard_that_is_missing_or_corrupt_is_named(sharded, load):
    _, folder, index = sharded
    weight_map = json.loads(index.read_text())["weight_map"]
    shard = folder / sorted(set(weight_map.values()))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[:-9])
    with pytest.raises(ValueError, match=f"{shard.name} is truncated or corrupt: .*; download or export it again"):
        load(folder)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"{index.name} names the shard {shard.name}, which is missing"):
        load(folder)
    shard.write_bytes(content)
    for some, name, message in [
        (next(iter(weight_map)), "../out", "outside the folder"),
        ("odd", shard.name, f"places tensor 'odd' in {shard.name}, which does not hold it"),
    ]:
        index.write_text(json.dumps({"weight_map": weight_map | {some: name}}))
        with pytest.raises(ValueError, match=message):
            load(folder)
    index.write_text("{}")
    with pytest.raises(ValueError, match="has no weight_map"):
        load(folder)


def test_every_tensor_is_accounted_for(flax_model, tmp_path):
    theirs, folder = flax_model("GPT2")
    save_pretrained(tmp_path, load_pretrained(folder))
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    embedding = tensors["transformer.wte.weight"]
    # Integers, old buffers and the tied head once more are known, and change nothing.
    known = {
        "transformer.h.0.attn.bias": np.ones((1, 1, 16, 16), np.uint8),
        "transformer.h.0.attn.masked_bias": np.full((), -1e4, np.float32),
        "lm_head.weight": embedding,
    }
    save_file(tensors | known, file)
    jax.tree.map(np.testing.assert_array_equal, load_flax_policy(tmp_path)[1], theirs.params)
    for changed, message in [
        (tensors | {"lm_head.weight": embedding + 1}, "unknown tensor 'lm_head.kernel'"),
        (tensors | {"transformer.h.1.ln_1.bias": embedding[0]}, r"unknown tensor 'transformer\.h\.1\.ln_1\.bias'"),
        ({k: v for k, v in tensors.items() if k != "transformer.ln_f.bias"}, "'transformer/ln_f/bias' .of 1. is miss"),
        (tensors | {"transformer.ln_f.bias": embedding[0, 1:]}, "files do not belong to this config.json"),
    ]:
        save_file(changed, file)
        with pytest.raises(ValueError, match=message):
            load_flax_policy(tmp_path)


def test_a_body_without_its_head_is_read_into_the_whole_model(flax_model, tmp_path):
    theirs, _ = flax_model("GPT2")
    body = transformers.FlaxGPT2Model(theirs.config, _do_init=False)
    body.save_pretrained(tmp_path, params=theirs.params["transformer"])
    jax.tree.map(np.testing.assert_array_equal, load_flax_policy(tmp_path)[1], theirs.params)


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
