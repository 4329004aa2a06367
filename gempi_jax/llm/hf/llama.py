"""The files of Llama and of the families that keep its blocks: Mistral, Qwen2, Qwen3, Phi-3, OLMo-2."""

from typing import Any

from gempi_jax.llm.hf.family import ACTIVATIONS, Family, Tensor, activation_name
from gempi_jax.llm.hf.fields import MOST_LAYERS, Fields
from gempi_jax.llm.hf.rope import read_rotary, write_rotary
from gempi_jax.models import RMS, Band, DecoderConfig, HeadNorm, Placement


def llama_like(
    fields: Fields,
    *,
    tie: bool = False,
    activation: str = "hidden_act",
    epsilon: float = 1e-6,
    longest: int = 2048,
    **changes: Any,
) -> DecoderConfig:
    """The attributes that all descendants of Llama share.

    Args:
      fields: the whole config.json.
      tie, activation, epsilon, longest: the family's own: whether it ties the head, what it calls the activation, the
        norms' epsilon and the longest sequence, where config.json does not say.
      **changes: what the family reads by itself, by its name in DecoderConfig.
    """
    values = {
        "vocab_size": fields.size("vocab_size"),
        "hidden_size": fields.size("hidden_size"),
        "intermediate_size": fields.size("intermediate_size"),
        "num_layers": fields.size("num_hidden_layers", largest=MOST_LAYERS),
        "num_heads": fields.size("num_attention_heads"),
        "num_kv_heads": fields.size("num_key_value_heads", None),
        "head_dim": fields.size("head_dim", None),
        "max_positions": fields.size("max_position_embeddings", longest),
        "norm": RMS(fields.number("rms_norm_eps", epsilon, above=0.0)),
        "activation": fields.choice(activation, ACTIVATIONS, "silu"),
        "tie_embeddings": fields.flag("tie_word_embeddings", tie),
        "attention_dropout": fields.number("attention_dropout", 0.0),
        "initializer_range": fields.number("initializer_range", 0.02, above=0.0),
    }
    for name in ("is_encoder_decoder", "add_cross_attention", "use_bidirectional_attention"):
        fields.only(name, False)
    fields.only("pruned_heads", {}, [])
    if "positions" not in changes:
        values["positions"] = read_rotary(fields, values["max_positions"])
    return fields.build(DecoderConfig, **values | changes)


def layer_count(fields: Fields) -> int:
    """The number of layers, left in place for :func:`llama_like`."""
    count = fields.size("num_hidden_layers", largest=MOST_LAYERS)
    fields.values["num_hidden_layers"] = count
    return count


def windows(fields: Fields, window: int | None, default: list[str]) -> tuple[int | None, ...]:
    """The window of each layer from ``layer_types``."""
    kinds = fields.take("layer_types", default)
    known = {"full_attention": None, "sliding_attention": window}
    if not isinstance(kinds, list) or len(kinds) != len(default) or not set(map(str, kinds)) <= set(known):
        raise fields.error(
            f"attribute 'layer_types' is {str(kinds)[:200]}; it must list {' or '.join(known)} for each of "
            f"{len(default)} layers"
        )
    return tuple(known[kind] for kind in kinds)


def sliding_window(fields: Fields) -> int | None:
    """The window, 4096 where config.json does not say; a null says that there is none."""
    return fields.size("sliding_window", None if "sliding_window" in fields.nulls else 4096)


def bands(windows: tuple[int | None, ...]) -> tuple[Band, ...]:
    """One band per layer where some layer has a window; empty where none has."""
    return tuple(Band(window) for window in windows) if any(windows) else ()


def _llama(fields: Fields) -> DecoderConfig:
    # Conversions of Llama 1, and SmolLM, state these beside the rest; nothing reads them.
    fields.skip("max_sequence_length", "is_llama_config")
    fields.only("rope_interleaved", False)
    bias = fields.flag("attention_bias", False)
    return llama_like(fields, qkv_bias=bias, output_bias=bias, mlp_bias=fields.flag("mlp_bias", False))


def _write_llama(config: DecoderConfig) -> dict[str, Any]:
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
        "hidden_act": activation_name(config, "silu"),
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_dropout": config.attention_dropout,
        "initializer_range": config.initializer_range,
    } | write_rotary(config.positions)


def layer(name: str, *paths: str, transposed: bool = True) -> Tensor:
    """A tensor of every layer, by its name there and its paths here."""
    return Tensor(f"model.layers.{{}}.{name}", tuple(f"layers_{{}}/{path}" for path in paths), transposed)


def norms(**names: str) -> tuple[Tensor, ...]:
    """The scales of a layer's norms: our name = theirs."""
    return tuple(layer(f"{theirs}.weight", f"{ours}/scale", transposed=False) for ours, theirs in names.items())


ENDS = (
    Tensor("model.embed_tokens.weight", ("embedding",)),
    Tensor("model.norm.weight", ("final_norm/scale",)),
    Tensor("lm_head.weight", ("lm_head",), transposed=True),
)
PROJECTIONS = tuple(
    tensor
    for theirs, ours in (
        *((f"self_attn.{name}_proj", f"attention/{name}_proj") for name in "qkvo"),
        *((f"mlp.{name}_proj", f"mlp/{name}_proj") for name in ("gate", "up", "down")),
    )
    for tensor in (
        layer(f"{theirs}.weight", f"{ours}/kernel"),
        layer(f"{theirs}.bias", f"{ours}/bias", transposed=False),
    )
)
HEAD_NORMS = norms(**{"attention/q_norm": "self_attn.q_norm", "attention/k_norm": "self_attn.k_norm"})
PRE = norms(attention_norm="input_layernorm", mlp_norm="post_attention_layernorm")


def _mistral(fields: Fields) -> DecoderConfig:
    window = sliding_window(fields)
    kinds = ["sliding_attention"] * layer_count(fields)
    return llama_like(fields, longest=131072, bands=bands(windows(fields, window, kinds)))


def _qwen2(fields: Fields, **changes: Any) -> DecoderConfig:
    used, window = fields.flag("use_sliding_window", False), sliding_window(fields)
    fields.only("use_mrope", False)
    first = fields.take("max_window_layers", 28)
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:
        raise fields.error(f"attribute 'max_window_layers' is {first!r}; it must be a whole number from 0")
    window = window if used else None
    count = layer_count(fields)
    default = ["sliding_attention" if window and i >= first else "full_attention" for i in range(count)]
    changes = {"qkv_bias": True, "longest": 32768} | changes
    return llama_like(fields, bands=bands(windows(fields, window, default)), **changes)


def _qwen3(fields: Fields) -> DecoderConfig:
    fields.values.setdefault("head_dim", 128)
    bias = fields.flag("attention_bias", False)
    return _qwen2(fields, qkv_bias=bias, output_bias=bias, head_norm=HeadNorm.PER_HEAD)


def _phi3(fields: Fields) -> DecoderConfig:
    window = fields.size("sliding_window", None)
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
        fields.only(name, False)
    return llama_like(
        fields,
        epsilon=1e-5,
        longest=4096,
        bands=bands((window,) * layer_count(fields)),
        embedding_dropout=fields.number("embd_pdrop", 0.0),
        residual_dropout=fields.number("resid_pdrop", 0.0),
    )


def _olmo2(fields: Fields) -> DecoderConfig:
    bias = fields.flag("attention_bias", False)
    kinds = {"placement": Placement.POST, "head_norm": HeadNorm.PROJECTION}
    return llama_like(fields, epsilon=1e-5, qkv_bias=bias, output_bias=bias, **kinds)


# Phi-3 keeps queries, keys and values side by side, and gate and up.
_FUSED = (
    layer("self_attn.qkv_proj.weight", *(f"attention/{name}_proj/kernel" for name in "qkv")),
    layer("self_attn.o_proj.weight", "attention/o_proj/kernel"),
    layer("mlp.gate_up_proj.weight", "mlp/gate_proj/kernel", "mlp/up_proj/kernel"),
    layer("mlp.down_proj.weight", "mlp/down_proj/kernel"),
)
_PHI3_CODE = ("configuration_phi3.Phi3Config", "modeling_phi3.Phi3ForCausalLM")
_POST = norms(attention_out_norm="post_attention_layernorm", mlp_out_norm="post_feedforward_layernorm")

LLAMA = Family("LlamaForCausalLM", "llama", _llama, ENDS + PROJECTIONS + PRE, _write_llama)
MISTRAL = Family("MistralForCausalLM", "mistral", _mistral, ENDS + PROJECTIONS + PRE)
QWEN2 = Family("Qwen2ForCausalLM", "qwen2", _qwen2, ENDS + PROJECTIONS + PRE)
QWEN3 = Family("Qwen3ForCausalLM", "qwen3", _qwen3, ENDS + PROJECTIONS + PRE + HEAD_NORMS)
PHI3 = Family("Phi3ForCausalLM", "phi3", _phi3, ENDS + _FUSED + PRE, own_code=_PHI3_CODE)
OLMO2 = Family("Olmo2ForCausalLM", "olmo2", _olmo2, ENDS + PROJECTIONS + _POST + HEAD_NORMS)
