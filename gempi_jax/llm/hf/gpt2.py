"""GPT-2's files."""

from typing import Any

from gempi_jax.llm.hf.family import ACTIVATIONS, Family, Tensor, activation_name
from gempi_jax.llm.hf.fields import MOST_LAYERS, Fields
from gempi_jax.models import Band, DecoderConfig, Layer, Learned


def _read(fields: Fields) -> DecoderConfig:
    width, layers = fields.size("n_embd", 768), fields.size("n_layer", 12, MOST_LAYERS)
    by_layer = fields.flag("scale_attn_by_inverse_layer_idx", False)
    for name in ("is_encoder_decoder", "add_cross_attention"):
        fields.only(name, False)
    fields.only("pruned_heads", {}, [])
    fields.skip("n_ctx", "reorder_and_upcast_attn", "summary_type", "summary_use_proj", "summary_activation")
    fields.skip("summary_first_dropout", "summary_proj_to_labels")
    fields.skip("n_special", "predict_special_tokens")
    return fields.build(
        DecoderConfig,
        vocab_size=fields.size("vocab_size", 50257),
        hidden_size=width,
        intermediate_size=fields.size("n_inner", None) or 4 * width,
        num_layers=layers,
        num_heads=fields.size("n_head", 12),
        max_positions=fields.size("n_positions", 1024),
        norm=Layer(fields.number("layer_norm_epsilon", 1e-5, above=0.0)),
        activation=fields.choice("activation_function", ACTIVATIONS, "gelu_new"),
        gated=False,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        positions=Learned(),
        bands=tuple(Band(scale=1.0 / (layer + 1)) for layer in range(layers)) if by_layer else (),
        query_scale=None if fields.flag("scale_attn_weights", True) else 1.0,
        tie_embeddings=fields.flag("tie_word_embeddings", True),
        embedding_dropout=fields.number("embd_pdrop", 0.1),
        residual_dropout=fields.number("resid_pdrop", 0.1),
        attention_dropout=fields.number("attn_pdrop", 0.1),
        initializer_range=fields.number("initializer_range", 0.02),
    )


def _write(config: DecoderConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "n_embd": config.hidden_size,
        "n_inner": config.intermediate_size,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_positions": config.max_positions,
        "layer_norm_epsilon": config.norm.epsilon,
        "activation_function": activation_name(config, "gelu_new"),
        "scale_attn_by_inverse_layer_idx": bool(config.bands),
        "scale_attn_weights": config.query_scale is None,
        "tie_word_embeddings": config.tie_embeddings,
        "embd_pdrop": config.embedding_dropout,
        "resid_pdrop": config.residual_dropout,
        "attn_pdrop": config.attention_dropout,
        "initializer_range": config.initializer_range,
    }


def _tensors() -> tuple[Tensor, ...]:
    def both(theirs, *ours):
        # GPT-2 keeps kernels as [in, out], and queries, keys and values side by side.
        name = f"transformer.h.{{}}.{theirs}"
        paths = tuple(f"layers_{{}}/{path}" for path in ours)
        kernel = "scale" if theirs.startswith("ln") else "kernel"
        return (
            Tensor(f"{name}.weight", tuple(f"{path}/{kernel}" for path in paths)),
            Tensor(f"{name}.bias", tuple(f"{path}/bias" for path in paths)),
        )

    return (
        Tensor("transformer.wte.weight", ("embedding",)),
        Tensor("transformer.wpe.weight", ("position_embedding",)),
        *both("ln_1", "attention_norm"),
        *both("attn.c_attn", "attention/q_proj", "attention/k_proj", "attention/v_proj"),
        *both("attn.c_proj", "attention/o_proj"),
        *both("ln_2", "mlp_norm"),
        *both("mlp.c_fc", "mlp/up_proj"),
        *both("mlp.c_proj", "mlp/down_proj"),
        Tensor("transformer.ln_f.weight", ("final_norm/scale",)),
        Tensor("transformer.ln_f.bias", ("final_norm/bias",)),
        Tensor("lm_head.weight", ("lm_head",), transposed=True),
    )


GPT2 = Family(
    "GPT2LMHeadModel",
    "gpt2",
    _read,
    _tensors(),
    _write,
    base="transformer.",
    buffers=(r"\.attn\.(masked_)?bias$",),
)
