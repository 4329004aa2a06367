"""The files of Gemma 1, 2 and 3 (text): norms that add one, scaled embeddings, soft caps, windows, two rotary bases."""

import math
from typing import Any

from gempi_jax.llm.hf.family import Family
from gempi_jax.llm.hf.fields import Fields
from gempi_jax.llm.hf.llama import ENDS, HEAD_NORMS, PRE, PROJECTIONS, layer_count, llama_like, norms, windows
from gempi_jax.llm.hf.rope import read_rotary, read_scaling
from gempi_jax.models import RMS, Band, DecoderConfig, HeadNorm, Placement, Rotary


def _gemma_like(fields: Fields, *, activation: str, longest: int = 8192, **changes: Any) -> DecoderConfig:
    """What all three share."""
    fields.values.setdefault("head_dim", 256)
    fields.values.setdefault(activation, "gelu_pytorch_tanh")
    bias = fields.flag("attention_bias", False)
    norm = RMS(fields.number("rms_norm_eps", 1e-6, above=0.0), offset=1.0)
    scale = math.sqrt(fields.values["hidden_size"]) if isinstance(fields.values.get("hidden_size"), int) else 1.0
    return llama_like(
        fields,
        tie=True,
        longest=longest,
        activation=activation,
        norm=norm,
        embedding_scale=scale,
        qkv_bias=bias,
        output_bias=bias,
        **changes,
    )


def _gemma(fields: Fields) -> DecoderConfig:
    # transformers reads hidden_act here and leaves hidden_activation unread.
    fields.skip("hidden_activation")
    return _gemma_like(fields, activation="hidden_act")


def _gemma2(fields: Fields, **changes: Any) -> DecoderConfig:
    """What the second and the third share."""
    fields.skip("hidden_act")
    return _gemma_like(
        fields,
        activation="hidden_activation",
        placement=Placement.SANDWICH,
        query_scale=fields.number("query_pre_attn_scalar", 256.0, above=0.0) ** -0.5,
        **changes,
    )


def _alternating(fields: Fields, every: int) -> tuple[int | None, ...]:
    """All layers but each ``every``-th see a window."""
    kinds = ("sliding_attention", "full_attention")
    default = [kinds[(i + 1) % every == 0] for i in range(layer_count(fields))]
    return windows(fields, fields.size("sliding_window", 4096), default)


def _read_gemma2(fields: Fields) -> DecoderConfig:
    fields.skip("sliding_window_size")  # early files state the window twice; nothing reads this one
    caps = {
        name: fields.number(attribute, None if attribute in fields.nulls else default, above=0.0)
        for name, attribute, default in (
            ("attention_softcap", "attn_logit_softcapping", 50.0),
            ("logits_softcap", "final_logit_softcapping", 30.0),
        )
    }
    return _gemma2(fields, bands=tuple(Band(window) for window in _alternating(fields, 2)), **caps)


def _read_gemma3(fields: Fields) -> DecoderConfig:
    # transformers 4.57 writes the pattern both ways; layer_types, where present, has the last word.
    public = fields.size("sliding_window_pattern", None)
    every = fields.size("_sliding_window_pattern", None) or public or 6
    local, positions = _gemma3_positions(fields)
    bands = tuple(Band(w, local) if w else Band() for w in _alternating(fields, every))
    # transformers has the attribute of Gemma 2 here, too, and applies it to nothing.
    fields.only("attn_logit_softcapping", None)
    cap = fields.number("final_logit_softcapping", None, above=0.0)
    kinds = {"head_norm": HeadNorm.PER_HEAD, "logits_softcap": cap, "longest": 131072}
    return _gemma2(fields, bands=bands, positions=positions, **kinds)


def _gemma3_positions(fields: Fields) -> tuple[Rotary, Rotary]:
    """The rotations of layers with a window and of the others."""
    positions = fields.size("max_position_embeddings", 131072)
    fields.values["max_position_embeddings"] = positions
    by_kind = fields.values.get("rope_parameters")
    if isinstance(by_kind, dict) and "full_attention" in by_kind:
        both = fields.nested("rope_parameters")
        local, whole = both.nested("sliding_attention"), both.nested("full_attention")
        both.finish(harmless=())
        return read_scaling(local, positions, 1e4), read_scaling(whole, positions, 1e6)
    return Rotary(fields.number("rope_local_base_freq", 1e4, above=1.0)), read_rotary(fields, positions, 1e6)


_SANDWICH = norms(
    attention_norm="input_layernorm",
    attention_out_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_out_norm="post_feedforward_layernorm",
)

GEMMA = Family("GemmaForCausalLM", "gemma", _gemma, ENDS + PROJECTIONS + PRE)
GEMMA2 = Family("Gemma2ForCausalLM", "gemma2", _read_gemma2, ENDS + PROJECTIONS + _SANDWICH)
GEMMA3 = Family("Gemma3ForCausalLM", "gemma3_text", _read_gemma3, ENDS + PROJECTIONS + _SANDWICH + HEAD_NORMS)
