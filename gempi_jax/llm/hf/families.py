"""The families of Hugging Face models as data: how each one's config.json reads, and what its tensors are called."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from gempi_jax.llm.hf.fields import MOST_LAYERS, Fields
from gempi_jax.llm.hf.rope import read_rotary, write_rotary
from gempi_jax.models import RMS, Band, DecoderConfig, Layer, Learned, gelu, gelu_tanh

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "relu": jax.nn.relu,
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint and the parameters that it holds; ``{}`` in the names stands for the layer.

    Attributes:
      name: in the checkpoint.
      paths: of our parameters; several when the checkpoint keeps them side by side along the output axis.
      transposed: the checkpoint stores [out, in].
    """

    name: str
    paths: tuple[str, ...]
    transposed: bool = False


@dataclasses.dataclass(frozen=True)
class Family:
    """What tells one architecture's files from another's.

    Attributes:
      architecture: as ``architectures`` of config.json names it.
      model_type: as ``model_type`` names it.
      read: its attributes -> DecoderConfig.
      tensors: all that a checkpoint may hold; which of them one does hold follows from the DecoderConfig.
      write: DecoderConfig -> its attributes, for models made here.
      base: the prefix of tensor names that some files leave out.
      buffers: patterns of names that hold no parameters.
      own_code: the values of ``auto_map`` by which this very architecture was published.
    """

    architecture: str
    model_type: str
    read: Callable[[Fields], DecoderConfig]
    tensors: tuple[Tensor, ...]
    write: Callable[[DecoderConfig], dict[str, Any]] | None = None
    base: str = "model."
    buffers: tuple[str, ...] = (r"\.rotary_emb\.inv_freq$",)
    own_code: tuple[str, ...] = ()


# --- Llama and what descends from it ---------------------------------------------------------------------------------


def _llama_like(fields: Fields, *, tie: bool = False, activation: str = "hidden_act", **changes: Any) -> DecoderConfig:
    """The attributes that all descendants of Llama share."""
    values = {
        "vocab_size": fields.size("vocab_size"),
        "hidden_size": fields.size("hidden_size"),
        "intermediate_size": fields.size("intermediate_size"),
        "num_layers": fields.size("num_hidden_layers", largest=MOST_LAYERS),
        "num_heads": fields.size("num_attention_heads"),
        "num_kv_heads": fields.size("num_key_value_heads", None),
        "head_dim": fields.size("head_dim", None),
        "max_positions": fields.size("max_position_embeddings", 2048),
        "norm": RMS(fields.number("rms_norm_eps", 1e-6)),
        "activation": fields.choice(activation, ACTIVATIONS, "silu"),
        "tie_embeddings": fields.flag("tie_word_embeddings", tie),
        "attention_dropout": fields.number("attention_dropout", 0.0),
        "initializer_range": fields.number("initializer_range", 0.02),
    }
    for name in ("is_encoder_decoder", "add_cross_attention", "use_bidirectional_attention"):
        fields.only(name, False)
    fields.only("pruned_heads", {}, [])
    if "positions" not in changes:
        values["positions"] = read_rotary(fields, values["max_positions"])
    return DecoderConfig(**values | changes)


def _windows(fields: Fields, window: int | None, default: list[str]) -> tuple[int | None, ...]:
    """The window of each layer from ``layer_types``."""
    kinds = fields.take("layer_types", default)
    known = {"full_attention": None, "sliding_attention": window}
    if not isinstance(kinds, list) or len(kinds) != len(default) or not set(map(str, kinds)) <= set(known):
        raise fields.error(
            f"attribute 'layer_types' is {str(kinds)[:200]}; it must list {' or '.join(known)} for each of "
            f"{len(default)} layers"
        )
    return tuple(known[kind] for kind in kinds)


def _bands(windows: tuple[int | None, ...]) -> tuple[Band, ...]:
    return tuple(Band(window) for window in windows) if any(windows) else ()


def _llama(fields: Fields) -> DecoderConfig:
    bias = fields.flag("attention_bias", False)
    return _llama_like(fields, qkv_bias=bias, output_bias=bias, mlp_bias=fields.flag("mlp_bias", False))


def _write_llama(config: DecoderConfig) -> dict[str, Any]:
    names = {function: name for name, function in reversed(ACTIVATIONS.items())}
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm.epsilon,
        "hidden_act": names.get(config.activation, "silu"),
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_dropout": config.attention_dropout,
        "initializer_range": config.initializer_range,
    } | write_rotary(config.positions)


def _layer(name: str, *paths: str, transposed: bool = True) -> Tensor:
    return Tensor(f"model.layers.{{}}.{name}", tuple(f"layers_{{}}/{path}" for path in paths), transposed)


def _norms(**names: str) -> tuple[Tensor, ...]:
    return tuple(_layer(f"{theirs}.weight", f"{ours}/scale", transposed=False) for ours, theirs in names.items())


_ENDS = (
    Tensor("model.embed_tokens.weight", ("embedding",)),
    Tensor("model.norm.weight", ("final_norm/scale",)),
    Tensor("lm_head.weight", ("lm_head",), transposed=True),
)
_PROJECTIONS = tuple(
    tensor
    for theirs, ours in (
        *((f"self_attn.{name}_proj", f"attention/{name}_proj") for name in "qkvo"),
        *((f"mlp.{name}_proj", f"mlp/{name}_proj") for name in ("gate", "up", "down")),
    )
    for tensor in (
        _layer(f"{theirs}.weight", f"{ours}/kernel"),
        _layer(f"{theirs}.bias", f"{ours}/bias", transposed=False),
    )
)
_PRE = _norms(attention_norm="input_layernorm", mlp_norm="post_attention_layernorm")
_LLAMA = _ENDS + _PROJECTIONS + _PRE


# --- GPT-2 -----------------------------------------------------------------------------------------------------------


def _gpt2(fields: Fields) -> DecoderConfig:
    width, layers = fields.size("n_embd", 768), fields.size("n_layer", 12, MOST_LAYERS)
    by_layer = fields.flag("scale_attn_by_inverse_layer_idx", False)
    for name in ("is_encoder_decoder", "add_cross_attention"):
        fields.only(name, False)
    fields.only("pruned_heads", {}, [])
    fields.skip("n_ctx", "reorder_and_upcast_attn", "summary_type", "summary_use_proj", "summary_activation")
    fields.skip("summary_first_dropout", "summary_proj_to_labels")
    return DecoderConfig(
        vocab_size=fields.size("vocab_size", 50257),
        hidden_size=width,
        intermediate_size=fields.size("n_inner", None) or 4 * width,
        num_layers=layers,
        num_heads=fields.size("n_head", 12),
        max_positions=fields.size("n_positions", 1024),
        norm=Layer(fields.number("layer_norm_epsilon", 1e-5)),
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


def _write_gpt2(config: DecoderConfig) -> dict[str, Any]:
    names = {function: name for name, function in reversed(ACTIVATIONS.items())}
    return {
        "vocab_size": config.vocab_size,
        "n_embd": config.hidden_size,
        "n_inner": config.intermediate_size,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_positions": config.max_positions,
        "layer_norm_epsilon": config.norm.epsilon,
        "activation_function": names.get(config.activation, "gelu_new"),
        "scale_attn_by_inverse_layer_idx": bool(config.bands),
        "scale_attn_weights": config.query_scale is None,
        "tie_word_embeddings": config.tie_embeddings,
        "embd_pdrop": config.embedding_dropout,
        "resid_pdrop": config.residual_dropout,
        "attn_pdrop": config.attention_dropout,
        "initializer_range": config.initializer_range,
    }


def _gpt2_tensors() -> tuple[Tensor, ...]:
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


FAMILIES: tuple[Family, ...] = (
    Family("LlamaForCausalLM", "llama", _llama, _LLAMA, _write_llama),
    Family(
        "GPT2LMHeadModel",
        "gpt2",
        _gpt2,
        _gpt2_tensors(),
        _write_gpt2,
        base="transformer.",
        buffers=(r"\.attn\.(masked_)?bias$",),
    ),
)
