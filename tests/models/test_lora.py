"""Adapters start as the base model, alone receive the gradient, and merge into what is exported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.models import Decoder, DecoderConfig
from gempi_jax.models.lora import LoRA, init_adapters, merge_adapters

SIZES = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_layers": 2, "num_heads": 2}
MODEL = Decoder(DecoderConfig(**SIZES))
LORA = LoRA(rank=2, alpha=6.0, targets=("q_proj", "down_proj"))
TOKENS = jnp.arange(6)[None]


@pytest.fixture(scope="module")
def trees():
    params = jax.jit(MODEL.init)(jax.random.key(0), TOKENS)["params"]
    return params, init_adapters(params, LORA, jax.random.key(1))


def test_the_adapted_model_starts_as_the_base_model(trees):
    params, adapters = trees
    jax.tree.map(np.testing.assert_array_equal, merge_adapters(params, adapters, LORA), params)
    assert set(adapters["layers_1"]) == {"attention", "mlp"}
    assert {name: leaf.shape for name, leaf in adapters["layers_1"]["mlp"]["down_proj"].items()} == {
        "a": (12, 2),
        "b": (2, 8),
    }


def test_a_step_on_the_adapters_lowers_the_loss_and_leaves_the_base_alone(trees):
    params, adapters = trees

    @jax.jit
    def loss(adapters):
        logits = MODEL.apply({"params": merge_adapters(params, adapters, LORA)}, TOKENS)
        return -jax.nn.log_softmax(logits)[..., 3].mean()

    gradient = jax.jit(jax.grad(loss))(adapters)
    assert jax.tree.structure(gradient) == jax.tree.structure(adapters)
    assert loss(jax.tree.map(lambda a, g: a - 0.1 * g, adapters, gradient)) < loss(adapters)


def test_merging_adds_the_scaled_product_in_the_dtype_of_the_base(trees):
    params, adapters = trees
    adapters = jax.tree.map(jnp.ones_like, adapters)
    merged = merge_adapters(params, adapters, LORA)
    # alpha / rank * (ones [8, 2] @ ones [2, 8]) = 3 * 2 = 6 everywhere.
    change = merged["layers_0"]["attention"]["q_proj"]["kernel"] - params["layers_0"]["attention"]["q_proj"]["kernel"]
    np.testing.assert_allclose(change, 6.0, rtol=1e-5)
    np.testing.assert_array_equal(merged["embedding"], params["embedding"])
    low = merge_adapters(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params), adapters, LORA)
    assert low["layers_0"]["attention"]["q_proj"]["kernel"].dtype == jnp.bfloat16


def test_wrong_settings_are_named(trees):
    with pytest.raises(ValueError, match=r"LoRA.targets is \('c_attn',\); choose one or more of q_proj"):
        LoRA(targets=("c_attn",))
    with pytest.raises(ValueError, match=r"LoRA.rank is 0"):
        LoRA(rank=0)
    flat = Decoder(DecoderConfig(**SIZES, gated=False))
    params = jax.eval_shape(flat.init, jax.random.key(0), TOKENS)["params"]
    with pytest.raises(ValueError, match="names gate_proj, which this model does not have"):
        init_adapters(params, LoRA(targets=("gate_proj",)), jax.random.key(0))
