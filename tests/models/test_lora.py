"""Adapters start as the base model, alone receive the gradient, and merge into what is exported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.models import Decoder, DecoderConfig
from gempi_jax.models.lora import Adapted, LoRA, init_adapters, low_rank, merge_adapters

SIZES = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_layers": 1, "num_heads": 2}
MODEL = Decoder(DecoderConfig(**SIZES))
LORA = LoRA(rank=2, alpha=6.0, targets=("q_proj", "down_proj"), dropout=0.5)
TOKENS = jnp.arange(6)[None]


@pytest.fixture(scope="module")
def trees():
    params = jax.jit(MODEL.init)(jax.random.key(0), TOKENS)["params"]
    return params, init_adapters(params, LORA, jax.random.key(1))


def test_the_adapted_model_starts_as_the_base_model(trees):
    params, adapters = trees
    jax.tree.map(np.testing.assert_array_equal, merge_adapters(params, adapters, LORA), params)
    assert set(adapters["layers_0"]) == {"attention", "mlp"}
    assert {name: leaf.shape for name, leaf in adapters["layers_0"]["mlp"]["down_proj"].items()} == {
        "a": (12, 2),
        "b": (2, 8),
    }


@jax.jit
def run(base, adapters, key):
    """Plain, dropped, and in the passes of a group; then the gradient of a loss in the adapters."""
    model = Adapted(MODEL, LORA).on(base)

    def loss(adapters):
        return -jax.nn.log_softmax(model.apply({"params": adapters}, TOKENS))[..., 3].mean()

    plain = model.apply({"params": adapters}, TOKENS)
    dropped = model.apply({"params": adapters}, TOKENS, deterministic=False, rngs={"dropout": key})
    prefix = model.apply({"params": adapters}, TOKENS[:, :2], jnp.array([2]), method="prefill")[1]
    hidden = model.apply({"params": adapters}, TOKENS[:, None, 2:], prefix, method="extend")
    after_prompt = model.apply({"params": adapters}, hidden, method="logits")
    return plain, dropped, after_prompt[:, 0], jax.value_and_grad(loss)(adapters)


@jax.jit
def whole(params):
    return MODEL.apply({"params": params}, TOKENS)


def test_fresh_adapters_compute_what_the_base_does_even_dropped(trees):
    params, adapters = trees
    plain, dropped, _, _ = run(params, adapters, jax.random.key(2))
    # B = 0 adds exactly 0; dropout is on A's input alone.
    np.testing.assert_array_equal(plain, dropped)
    np.testing.assert_allclose(plain, whole(params), rtol=1e-6)
    bare, _, _, _ = run(params, {"layers_0": {}}, jax.random.key(2))
    np.testing.assert_allclose(bare, whole(params), rtol=1e-6)


def test_adapters_compute_what_their_merger_does(trees):
    params, adapters = trees
    adapters = jax.tree.map(lambda a: a + 0.2 * jnp.sin(jnp.arange(a.size, dtype=float)).reshape(a.shape), adapters)
    plain, dropped, after_prompt, _ = run(params, adapters, jax.random.key(2))
    expected = whole(merge_adapters(params, adapters, LORA))
    assert np.abs(expected - whole(params)).max() > 1e-3
    np.testing.assert_allclose(plain, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after_prompt, expected[:, 2:], rtol=1e-4, atol=1e-6)
    assert np.abs(dropped - plain).max() > 1e-5


def test_a_step_on_the_adapters_lowers_the_loss(trees):
    params, adapters = trees
    loss, gradient = run(params, adapters, jax.random.key(2))[-1]
    assert jax.tree.structure(gradient) == jax.tree.structure(adapters)
    stepped = jax.tree.map(lambda a, g: a - 0.1 * g, adapters, gradient)
    assert run(params, stepped, jax.random.key(2))[-1][0] < loss


def test_the_low_rank_product_by_hand():
    # (1, 2) A = 1 * 3 + 2 * 4 = 11; times B = (1, -1) and the scale 0.5.
    adapter = {"a": jnp.array([[3.0], [4.0]]), "b": jnp.array([[1.0, -1.0]])}
    np.testing.assert_array_equal(low_rank(jnp.array([[1.0, 2.0]]), adapter, 0.5, jnp.float32), [[5.5, -5.5]])


def test_without_a_base_there_is_nothing_to_apply():
    with pytest.raises(ValueError, match=r"there are no base parameters; use model.on\(base\)"):
        Adapted(MODEL, LORA).apply({"params": {}}, TOKENS)


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
    for settings, message in [
        ({"rank": 0}, "LoRA.rank is 0"),
        ({"alpha": 0.0}, "LoRA.alpha is 0.0; it must be a positive number"),
        ({"dropout": 1.0}, r"LoRA.dropout is 1.0; a rate is in \[0, 1\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            LoRA(**settings)
    flat = Decoder(DecoderConfig(**SIZES, gated=False))
    params = jax.eval_shape(flat.init, jax.random.key(0), TOKENS)["params"]
    with pytest.raises(ValueError, match="names gate_proj, which this model does not have"):
        init_adapters(params, LoRA(targets=("gate_proj",)), jax.random.key(0))
