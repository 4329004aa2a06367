"""Adapters in PEFT's files: the same function on both sides, for separate and for fused projections."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gempi_jax.llm.hf import Pretrained, load_adapters, save_adapters, save_pretrained
from gempi_jax.models import Decoder, DecoderConfig, Layer, Learned, LoRA, gelu_tanh, init_adapters, merge_adapters

SIZES = {"vocab_size": 17, "hidden_size": 8, "intermediate_size": 12, "num_layers": 2, "num_heads": 4}
GPT2 = {
    "norm": Layer(), "activation": gelu_tanh, "gated": False, "qkv_bias": True, "output_bias": True, "mlp_bias": True,
    "positions": Learned(), "tie_embeddings": True,
}  # fmt: skip
CONFIGS = {
    "llama": DecoderConfig(**SIZES, num_kv_heads=2, max_positions=16, initializer_range=0.4),
    "gpt2": DecoderConfig(**SIZES, **GPT2, max_positions=16, initializer_range=0.4),
}
TARGETS = {"llama": ("q_proj", "v_proj", "down_proj"), "gpt2": ("q_proj", "k_proj", "v_proj", "up_proj")}
TOKENS = np.random.default_rng(0).integers(0, 17, (2, 6))


@functools.cache
def model(name):
    decoder = Decoder(CONFIGS[name])
    params = jax.jit(decoder.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    return Pretrained(decoder, params, None)


def random_adapters(name, lora):
    adapters = init_adapters(model(name).params, lora, jax.random.key(1))
    return jax.tree.map(
        lambda leaf: leaf + 0.3 * np.cos(np.arange(leaf.size, dtype=np.float32)).reshape(leaf.shape), adapters
    )


@functools.cache
def forward(name):
    """The base with merged weights, which the tests of the model compare with adapters: one compilation for all."""
    return jax.jit(lambda params: model(name).model.apply({"params": params}, jnp.asarray(TOKENS)))


def logits(name, lora, adapters):
    return forward(name)(merge_adapters(model(name).params, adapters, lora))


@pytest.mark.parametrize("name", CONFIGS)
def test_what_goes_out_comes_in_as_the_same_function(name, tmp_path):
    lora = LoRA(2, 3.0, TARGETS[name], dropout=0.25)
    adapters = random_adapters(name, lora)
    save_adapters(tmp_path, adapters, lora, model(name), base="org/base")
    again, loaded = load_adapters(tmp_path, model(name))
    assert (again.scale, again.dropout, set(again.targets)) == (lora.scale, 0.25, set(lora.targets))
    # GPT-2's c_attn holds three of ours: their ranks lie side by side, under an alpha that keeps the scale.
    assert again.rank == (2 if name == "llama" else 6)
    if name == "llama":
        jax.tree.map(np.testing.assert_array_equal, loaded, adapters)
    np.testing.assert_allclose(logits(name, again, loaded), logits(name, lora, adapters), rtol=1e-4, atol=1e-5)
    values = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (values["base_model_name_or_path"], values["task_type"]) == ("org/base", "CAUSAL_LM")
    assert "c_attn" not in str(values["target_modules"]) or values["fan_in_fan_out"]


@pytest.mark.parametrize(
    ("name", "targets", "rslora"),
    [("llama", ["q_proj", "o_proj", "gate_proj"], True), ("gpt2", ["c_attn", "mlp.c_proj"], False)],
)
def test_peft_and_we_compute_the_same(name, targets, rslora, tmp_path):
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    save_pretrained(tmp_path / "base", model(name))

    def theirs(adapted):
        with torch.no_grad():
            return adapted.eval()(torch.tensor(TOKENS)).logits.numpy()

    # Theirs, read by us.
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    settings = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=targets, use_rslora=rslora, task_type="CAUSAL_LM", lora_dropout=0.1,
        fan_in_fan_out=name == "gpt2",
    )  # fmt: skip
    adapted = peft.get_peft_model(base, settings)
    torch.manual_seed(0)
    for parameter_name, parameter in adapted.named_parameters():
        if "lora_" in parameter_name:
            parameter.data.normal_(std=0.4)
    adapted.save_pretrained(tmp_path / "theirs")
    lora, adapters = load_adapters(tmp_path / "theirs", model(name))
    expected = theirs(adapted)
    ours = logits(name, lora, adapters)
    assert np.abs(ours - logits(name, lora, {})).max() > 0.1
    np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())

    # Ours, read by them.
    save_adapters(tmp_path / "ours", adapters, lora, model(name))
    again = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "ours")
    np.testing.assert_allclose(theirs(again), expected, atol=1e-4 * np.abs(expected).max())
    assert json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["target_modules"] == (
        ["mlp.gate_proj", "self_attn.o_proj", "self_attn.q_proj"] if name == "llama" else ["attn.c_attn", "mlp.c_proj"]
    )


@pytest.fixture
def folder(tmp_path):
    """An adapter, to be damaged."""
    lora = LoRA(2, 3.0, ("q_proj",))
    save_adapters(tmp_path, random_adapters("llama", lora), lora, model("llama"))
    return tmp_path


def test_the_scale_by_hand(folder):
    path = folder / "adapter_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"r": 2, "lora_alpha": 3}))
    assert load_adapters(folder, model("llama"))[0].scale == 1.5
    path.write_text(json.dumps(values | {"r": 2, "lora_alpha": 3, "use_rslora": True}))
    assert load_adapters(folder, model("llama"))[0].scale == pytest.approx(3 / 2**0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "'peft_type' is 'LOHA', which is not supported; only 'LORA' is"),
        ({"task_type": "SEQ_CLS"}, "'task_type' is 'SEQ_CLS'"),
        ({"use_dora": True}, "'use_dora' is True"),
        ({"modules_to_save": ["lm_head"]}, r"'modules_to_save' is \['lm_head'\]"),
        ({"alpha_pattern": {"q_proj": 4}}, r"'alpha_pattern' is \{'q_proj': 4\}"),
        ({"rank_pattern": {"q_proj": 4}}, "'rank_pattern'"),
        ({"bias": "all"}, "'bias' is 'all'"),
        ({"init_lora_weights": "pissa"}, "'init_lora_weights' is 'pissa'"),
        ({"layers_to_transform": [0]}, r"unknown attribute 'layers_to_transform' \(\[0\]\)"),
        ({"use_something": 1}, "unknown attribute 'use_something'"),
        ({"r": 0}, "'r' is 0; it must be a whole number from 1"),
        ({"r": 3}, r"lora_A.weight' has shape \[2, 8\]; the model and r = 3 ask for \[3, 8\]"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(folder, changes, message):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        load_adapters(folder, model("llama"))


def test_tensors_that_do_not_belong_are_named(folder):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    some = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
    save_file({name: tensor for name, tensor in tensors.items() if name != some}, path)
    with pytest.raises(ValueError, match=r"layers.1.self_attn.q_proj.lora_B.weight' is missing; .* ask for \[8, 2\]"):
        load_adapters(folder, model("llama"))
    save_file(tensors | {"base_model.model.lm_head.lora_A.weight": np.zeros((2, 8), np.float32)}, path)
    with pytest.raises(ValueError, match=r"'base_model.model.lm_head.lora_A.weight' adapts nothing that this model"):
        load_adapters(folder, model("llama"))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="truncated or corrupt"):
        load_adapters(folder, model("llama"))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"adapter_model.safetensors is missing; save the adapter with"):
        load_adapters(folder, model("llama"))
