"""Folders in and out: the real checkpoint, models made here, and everything that can be wrong with a folder."""

import fnmatch
import json
import re
import shutil
import struct
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import load_file

from gempi_jax.llm import load_pretrained, save_pretrained, train_tokenizer
from gempi_jax.llm.hf import CheckpointConfig, Pretrained, read_config, write_config
from gempi_jax.models import Decoder, DecoderConfig, Layer, Learned, Placement, gelu_tanh

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_layers": 2,
    "num_heads": 4,
    "max_positions": 32,
    "initializer_range": 0.3,
}


LLAMA3 = {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8}
LONG = {"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0]}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["two and two is four", "three and one is four"], 300, largest_number=12)


@pytest.fixture(scope="module")
def fresh(tokenizer):
    """A model made here, with dropout, and its tokenizer."""
    config = DecoderConfig(
        vocab_size=len(tokenizer), num_kv_heads=2, tie_embeddings=True, residual_dropout=0.1, **SMALL
    )
    model = Decoder(config)
    return Pretrained(model, jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"], tokenizer)


@pytest.fixture
def folder(fresh, tmp_path):
    """Its export, to be damaged."""
    save_pretrained(tmp_path / "export", fresh)
    return tmp_path / "export"


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- the real checkpoint ---------------------------------------------------------------------------------------------


def test_the_real_checkpoint_gives_transformers_logits_and_stories(shared_data):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    path = shared_data / "stories260k"
    model, params, tokenizer, config = load_pretrained(path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    ids = tokenizer("Once upon a time, there was a little girl named Lily.")["input_ids"]
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits.numpy()
    logits = jax.jit(lambda p, t: model.apply({"params": p}, t))(params, jnp.asarray([ids]))
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
    assert config.eos_ids == (2,)
    assert model.config.num_kv_heads == 4


def test_the_real_checkpoint_comes_out_as_it_went_in(shared_data, tmp_path):
    path = shared_data / "stories260k"
    save_pretrained(tmp_path, load_pretrained(path))
    before, after = load_pretrained(path), load_pretrained(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
    assert json.loads((path / "config.json").read_text()) == json.loads((tmp_path / "config.json").read_text())
    assert before.tokenizer.get_vocab() == after.tokenizer.get_vocab()


# --- models made here ------------------------------------------------------------------------------------------------


def test_a_fresh_decoder_opens_in_transformers_as_a_llama(fresh, folder):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert type(theirs).__name__ == "LlamaForCausalLM"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("two and 2 is 4")["input_ids"]
    assert ids == fresh.tokenizer("two and 2 is 4")["input_ids"]
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits.numpy()
    logits = fresh.model.apply({"params": fresh.params}, jnp.asarray([ids]))
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
    generation = transformers.GenerationConfig.from_pretrained(folder)
    assert (generation.eos_token_id, generation.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_a_fresh_gpt2_is_exported_as_one():
    config = DecoderConfig(
        vocab_size=30,
        norm=Layer(),
        activation=gelu_tanh,
        gated=False,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        positions=Learned(),
        **SMALL,
    )
    values = write_config(config)
    assert values["architectures"] == ["GPT2LMHeadModel"]
    assert read_config(values) == config


def test_what_no_family_expresses_is_not_exported():
    config = DecoderConfig(vocab_size=30, placement=Placement.SANDWICH, **SMALL)
    with pytest.raises(ValueError, match="LlamaForCausalLM has no placement"):
        write_config(config)


def test_float16_and_shards_and_an_earlier_export_in_the_same_folder(fresh, folder):
    half = fresh._replace(params=jax.tree.map(lambda leaf: leaf.astype(jnp.float16), fresh.params))
    save_pretrained(folder, half, max_shard_bytes=4000)
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(shards) > 2
    assert "model.safetensors" not in shards
    again = load_pretrained(folder)
    assert again.model.dtype == jnp.float16
    jax.tree.map(np.testing.assert_array_equal, again.params, half.params)
    save_pretrained(folder, fresh)
    assert [path.name for path in folder.glob("*.safetensors")] == ["model.safetensors"]
    assert not (folder / "model.safetensors.index.json").exists()
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(folder).params, fresh.params)


def test_parameters_are_loaded_straight_into_shards(fresh, folder):
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("fsdp", "tensor"))

    def placing(path, shape):
        spec = PartitionSpec("fsdp", "tensor") if path.endswith("kernel") else PartitionSpec()
        return NamedSharding(mesh, spec)

    params = load_pretrained(folder, placing=placing).params
    jax.tree.map(np.testing.assert_array_equal, params, fresh.params)
    kernel = params["layers_1"]["mlp"]["up_proj"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(8, 12)}


def test_several_end_ids_come_from_the_generation_config():
    config = CheckpointConfig({"eos_token_id": 3}, {"eos_token_id": [3, 7]})
    assert config.eos_ids == (3, 7)
    assert CheckpointConfig({"eos_token_id": 3}).eos_ids == (3,)
    assert CheckpointConfig({}).eos_ids == ()
    with pytest.raises(ValueError, match=r"generation_config.json: attribute 'eos_token_id' is \['</s>'\]; it must be"):
        _ = CheckpointConfig({"eos_token_id": 3}, {"eos_token_id": ["</s>"]}).eos_ids


# --- bad input -------------------------------------------------------------------------------------------------------


def test_a_missing_folder_and_missing_files_name_the_fix(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere; give one that holds config.json"):
        load_pretrained(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="neither a folder here nor a model that the hub gave"):
        load_pretrained("nobody-here/no-such-model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"pytorch_model.bin, a pickle, .* never opened"):
        load_pretrained(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"none of model.safetensors, "):
        load_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config.json is missing"):
        load_pretrained(folder)


@pytest.mark.parametrize("name", ["someone/model", "model"])
def test_of_a_name_on_the_hub_neither_code_nor_pickles_are_fetched(fresh, folder, monkeypatch, name):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    fetched = []

    def snapshot_download(repository, *, allow_patterns):
        fetched.append((repository, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(name).params, fresh.params)
    ((repository, patterns),) = fetched
    assert repository == name

    def wanted(file):
        return any(fnmatch.fnmatch(file, pattern) for pattern in patterns)

    good = ["config.json", "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    good += ["flax_model.msgpack", "flax_model-00001-of-00002.msgpack", "tokenizer.model", "merges.txt"]
    bad = ["modeling.py", "pytorch_model.bin", "original/model.pth", "consolidated.safetensors", "vocab.pkl"]
    assert (all(map(wanted, good)), any(map(wanted, bad))) == (True, False)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_file_says_so(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model.safetensors is truncated or corrupt: .*; download or export it again"):
        load_pretrained(folder)


def damage_length(header, data):
    return struct.pack("<Q", 1 << 60) + header + data


def damage_json(header, data):
    return struct.pack("<Q", len(header)) + b"{" * len(header) + data


def damage_list(header, data):
    return struct.pack("<Q", 2) + b"[]" + data


def damage_offsets(header, data):
    text = re.sub(rb'("data_offsets":\[)\d+', rb"\g<1>4", header, count=1)
    return struct.pack("<Q", len(text)) + text + data


def damage_shape(header, data):
    text = re.sub(rb'("shape":\[)\d+', rb"\g<1>-5", header, count=1)
    return struct.pack("<Q", len(text)) + text + data


def damage_entry(header, data):
    text = header.replace(b'"dtype"', b'"kind"', 1)
    return struct.pack("<Q", len(text)) + text + data


def damage_dtype(header, data):
    text = header.replace(b'"F32"', b'"X32"', 1)
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "damage",
    [damage_length, damage_json, damage_list, damage_offsets, damage_shape, damage_entry, damage_dtype],
)
def test_a_corrupt_header_says_so(folder, damage):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    path.write_bytes(damage(content[8 : 8 + length], content[8 + length :]))
    with pytest.raises(ValueError, match=r"model.safetensors is truncated or corrupt: "):
        load_pretrained(folder)


def test_other_types_are_named(folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"F32"', b'"I32"', 1))
    with pytest.raises(ValueError, match=r"has type I32; supported are F32, BF16, F16"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index, some: index.pop("weight_map"), "has no weight_map"),
        (lambda index, some: index["weight_map"].update({some: "lost.safetensors"}), "lost.safetensors, which is miss"),
        (lambda index, some: index["weight_map"].update({some: "../out.safetensors"}), r"outside the folder"),
        (lambda index, some: index["weight_map"].update(odd=index["weight_map"][some]), "'odd' in .* not hold it"),
        (lambda index, some: index["weight_map"].pop(some), "tensor '.*' is missing"),
    ],
)
def test_a_wrong_index_names_the_shard(fresh, folder, change, message):
    save_pretrained(folder, fresh, max_shard_bytes=4000)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index, next(iter(index["weight_map"])))
    path.write_text(json.dumps(index))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_pretrained(folder)


def test_a_buffer_that_is_in_no_shard_is_passed_over(fresh, folder):
    save_pretrained(folder, fresh, max_shard_bytes=4000)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    some = next(iter(index["weight_map"].values()))
    index["weight_map"]["model.layers.0.self_attn.rotary_emb.inv_freq"] = some
    path.write_text(json.dumps(index))
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(folder).params, fresh.params)


def test_two_sets_of_weights_in_one_folder_are_refused(fresh, folder):
    single = (folder / "model.safetensors").read_bytes()
    save_pretrained(folder, fresh, max_shard_bytes=4000)
    (folder / "model.safetensors").write_bytes(single)
    with pytest.raises(
        ValueError, match=r"two sets of weights: model\.safetensors, and the \d+ that model\.safet.*remove"
    ):
        load_pretrained(folder)
    # An index may name the single file itself.
    names = load_file(folder / "model.safetensors")
    for shard in folder.glob("model-*.safetensors"):
        shard.unlink()
    index = {"weight_map": dict.fromkeys(names, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(folder).params, fresh.params)


def test_an_id_behind_a_gap_that_has_no_row_is_named(folder):
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    count = len(vocabulary)
    last = max(vocabulary, key=vocabulary.get)
    vocabulary[last] = count + 7
    path.write_text(json.dumps(tokenizer))
    message = rf"the tokenizer has {count} entries, the embedding only {count} rows, and {re.escape(repr(last))} has"
    with pytest.raises(ValueError, match=message + rf" the id {count + 7}"):
        load_pretrained(folder)


def test_a_shard_that_was_not_downloaded_is_named(fresh, folder):
    save_pretrained(folder, fresh, max_shard_bytes=4000)
    gone = sorted(folder.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(FileNotFoundError, match=f"names the shard {gone.name}, which is missing"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["MambaForCausalLM"]}, r"architectures \['MambaForCausalLM'\] is not supported; the supp"),
        ({"architectures": None, "model_type": "rwkv"}, "model_type 'rwkv' is not supported"),
        ({"attention_sinks": 4}, r"unknown attribute 'attention_sinks' \(4\)"),
        ({"quantization_config": {"bits": 4}}, "unknown attribute 'quantization_config'"),
        ({"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, r"run code .* \('evil.Model'\); that is never done"),
        ({"hidden_size": 10**12}, "'hidden_size' is 1000000000000; it must be a whole number from 1 to"),
        ({"num_hidden_layers": "2"}, "'num_hidden_layers' is '2'; it must be a whole number"),
        ({"num_hidden_layers": 10**6}, "must be a whole number from 1 to 4096"),
        ({"vocab_size": -1}, "'vocab_size' is -1"),
        ({"vocab_size": True}, "'vocab_size' is True"),
        ({"hidden_act": "quick_gelu"}, "'hidden_act' is 'quick_gelu'; supported are silu"),
        ({"rms_norm_eps": "tiny"}, "'rms_norm_eps' is 'tiny'; it must be a finite number"),
        ({"tie_word_embeddings": "yes"}, "'tie_word_embeddings' is 'yes'; it must be true or false"),
        ({"rope_scaling": {"rope_type": "spiral"}}, "rope_scaling: attribute 'rope_type' is 'spiral'; supported"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "twist": 1}}, "unknown attribute 'twist'"),
        ({"is_encoder_decoder": True}, "'is_encoder_decoder' is True, which is not supported"),
        ({"intermediate_size": 25}, r"has shape \[24, 16\], config.json asks for \[25, 16\]"),
        ({"num_hidden_layers": 3}, "tensor 'model.layers.2.* and 3 more is missing"),
        ({"num_hidden_layers": 1}, "unknown tensor 'model.layers.1"),
        ({"tie_word_embeddings": False}, "tensor 'lm_head.weight' is missing"),
        ({"architectures": "LlamaForCausalLM"}, r"'architectures' is 'LlamaForCausalLM'; it must be a list"),
        ({"rope_interleaved": True}, "'rope_interleaved' is True, which is not supported"),
        (
            {"num_attention_heads": 3},
            r"config.json \(Llama.*: DecoderConfig.num_heads is 3; .*multiple of num_kv_heads",
        ),
        ({"head_dim": 5}, r"config.json \(Llama.*: rotary positions turn 5 of the 5 entries"),
        ({"partial_rotary_factor": 2.0}, "rotary positions turn 8 of the 4 entries"),
        ({"partial_rotary_factor": -1.0}, "'partial_rotary_factor' is -1.0; it must be a finite number above 0"),
        ({"rms_norm_eps": -1.0}, "'rms_norm_eps' is -1.0; it must be a finite number above 0"),
        ({"rms_norm_eps": 10**400}, "'rms_norm_eps' is 1000.*; it must be a finite number"),
        ({"rope_theta": -5}, "'rope_theta' is -5; it must be a finite number above 1"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 0}},
            "rope_scaling: attribute 'factor' is 0; it must be a f",
        ),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2, "beta_fast": 0}}, "'beta_fast' is 0; it must be a f"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2, "mscale": -1}}, "neither may be negative"),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "'high_freq_factor' is 1.0; it must be .* above 1"),
        ({"rope_scaling": LONG | {"short_factor": [1.0]}}, "longrope has 1 short and 2 long divisors; give 2 of each"),
        (
            {"rope_scaling": LONG | {"original_max_position_embeddings": 8}},
            "beside it, and versions of transformers diff",
        ),
        ({"rope_scaling": LONG, "original_max_position_embeddings": 1}, "original context has 1 position"),
        (
            {"head_dim": 2, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            "turns 2 entries of a head; it needs",
        ),
        ({"vocab_size": 20}, r"the tokenizer has \d+ entries, the embedding only 20 rows"),
    ],
)
def test_a_config_that_is_wrong_names_the_attribute(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(ValueError, match=message):
        load_pretrained(folder)


def test_a_config_that_is_no_json_object(folder):
    for text, message in (
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ('{"hidden_size": ' + "9" * 5000 + "}", "is not valid JSON"),
        ("[]", "holds a list, not a JSON object"),
    ):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_pretrained(folder)


def test_thousands_of_layers_are_refused_at_once(folder):
    edit(folder, num_hidden_layers=4096)
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"tensor 'model\.layers\.2\..* is missing"):
        load_pretrained(folder)
    assert time.monotonic() - started < 20


FAMILY = {
    "vocab_size": 37,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("Qwen2ForCausalLM", {"use_mrope": True}, "'use_mrope' is True, which is not supported"),
        ("Qwen2ForCausalLM", {"max_window_layers": "x"}, "'max_window_layers' is 'x'; it must be a whole number"),
        ("MistralForCausalLM", {"sliding_window": -4}, "'sliding_window' is -4; it must be a whole number"),
        ("Gemma2ForCausalLM", {"query_pre_attn_scalar": 0}, "'query_pre_attn_scalar' is 0; it must be a f.* above 0"),
        ("Gemma2ForCausalLM", {"attn_logit_softcapping": 0}, "'attn_logit_softcapping' is 0; it must be a f.* above 0"),
        ("Gemma3ForCausalLM", {"attn_logit_softcapping": 2.0}, "'attn_logit_softcapping' is 2.0, which is not supp"),
        ("Gemma3ForCausalLM", {"max_position_embeddings": "x"}, "'max_position_embeddings' is 'x'; it must be a whole"),
        ("Phi3ForCausalLM", {"attention_bias": True}, "'attention_bias' is True, which is not supported"),
        ("GPT2LMHeadModel", {"layer_norm_epsilon": -1}, "'layer_norm_epsilon' is -1; it must be a f.* above 0"),
    ],
)
def test_an_attribute_of_one_family_is_named(architecture, changes, message):
    sizes = {"vocab_size": 37} if architecture.startswith("GPT2") else FAMILY
    with pytest.raises(ValueError, match=rf"config\.json \({architecture}\): attribute {message}"):
        read_config({"architectures": [architecture]} | sizes | changes)


@pytest.mark.parametrize(
    ("architecture", "published"),
    [
        ("LlamaForCausalLM", {"max_sequence_length": 2048, "pretraining_tp": 1}),
        ("LlamaForCausalLM", {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {"a": 1}}),
        ("Qwen2ForCausalLM", {"use_mrope": False, "_attn_implementation_autoset": True}),
        ("Gemma2ForCausalLM", {"sliding_window_size": 4096, "hidden_act": "gelu_pytorch_tanh"}),
        ("Phi3ForCausalLM", {"attention_bias": False, "mlp_bias": False, "lm_head_bias": False}),
        ("GPT2LMHeadModel", {"n_special": 0, "predict_special_tokens": True, "output_past": True, "_num_labels": 1}),
    ],
)
def test_what_published_files_say_beside_the_rest_changes_nothing(architecture, published):
    sizes = {"vocab_size": 37} if architecture.startswith("GPT2") else FAMILY
    plain = {"architectures": [architecture]} | sizes
    assert read_config(plain | published) == read_config(plain)


def test_no_code_of_a_checkpoint_is_run(folder):
    marker = folder / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()")
    edit(folder, auto_map={"AutoConfig": "evil.Config", "AutoTokenizer": "evil.Tokenizer"})
    with pytest.raises(ValueError, match="auto_map"):
        load_pretrained(folder)
    assert not marker.exists()


def test_a_model_may_come_without_a_tokenizer(fresh, folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    again = load_pretrained(folder)
    assert again.tokenizer is None
    save_pretrained(folder.parent / "other", again)
    assert (folder.parent / "other" / "config.json").is_file()


def test_saving_what_does_not_fit_together_is_refused(fresh, folder):
    loaded = load_pretrained(folder)
    changed = loaded._replace(model=Decoder(DecoderConfig(vocab_size=len(loaded.tokenizer), **SMALL)))
    with pytest.raises(ValueError, match="disagree: the model has num_kv_heads = 4, tie_embeddings = False"):
        save_pretrained(folder.parent / "other", changed)
    params = dict(loaded.params, embedding=loaded.params["embedding"][:-1])
    with pytest.raises(ValueError, match=r"do not belong to the model: 'embedding' is \(\d+, 16\)"):
        save_pretrained(folder.parent / "other", loaded._replace(params=params))
    params = dict(loaded.params, embedding=loaded.params["embedding"].astype(jnp.bfloat16))
    with pytest.raises(ValueError, match="several types"):
        save_pretrained(folder.parent / "other", loaded._replace(params=params))


def test_loaded_parameters_do_not_depend_on_the_file(folder):
    params = load_pretrained(folder).params
    before = np.array(params["embedding"])
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(2000)
        file.write(b"\xff" * 1000)
    np.testing.assert_array_equal(params["embedding"], before)
    shutil.rmtree(folder)
    np.testing.assert_array_equal(params["embedding"], before)
