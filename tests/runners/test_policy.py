"""The policy of a run: what a checkpoint must agree with."""

import jax
import jax.numpy as jnp

from gempi_jax.llm.hf import Pretrained
from gempi_jax.models import Adapted, Decoder, DecoderConfig, LoRA, gelu_tanh
from gempi_jax.runners.policy import Start, checksum
from gempi_jax.training import sharding

SIZES = {"vocab_size": 8, "hidden_size": 4, "intermediate_size": 4, "num_layers": 1, "num_heads": 1}


def start(activation, frozen=None):
    model = Decoder(DecoderConfig(**SIZES, activation=activation))
    frozen = frozen or {}
    return Start(Pretrained(model, {}, None), Adapted(model, LoRA(2)) if frozen else model, {}, frozen)


def test_a_fingerprint_names_functions_and_holds_no_address():
    names = start(gelu_tanh).fingerprint()
    assert names["activation"] == "gelu_tanh"
    assert start(jax.nn.silu).fingerprint()["activation"] == "silu"
    assert "0x" not in str(names)
    assert names["positions"].startswith("Rotary(")


def test_the_base_of_adapters_is_known_by_its_bits():
    base = {"layer": {"kernel": jnp.arange(8.0).reshape(4, 2), "scale": jnp.ones(3, jnp.bfloat16)}}
    before = start(gelu_tanh, base).fingerprint()
    assert before["lora"] == str(LoRA(2))
    base["layer"]["scale"] = base["layer"]["scale"].at[1].set(1.0078125)
    assert start(gelu_tanh, base).fingerprint()["base"] != before["base"]


def test_a_checksum_is_the_same_on_any_mesh():
    # 1.0 is 0x3f800000 and 2.0 is 0x40000000: their sum, four times, modulo 2^32.
    params = {"kernel": jnp.tile(jnp.array([1.0, 2.0]), (4, 1))}
    assert checksum(params) == 4 * (0x3F800000 + 0x40000000) % 2**32
    mesh = sharding.make_mesh({"fsdp": 4})
    spread = jax.device_put(params, sharding.batch_sharding(mesh))
    assert checksum(spread) == checksum(params)
