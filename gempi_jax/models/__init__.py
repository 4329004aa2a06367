"""Networks: one decoder for every family of language models, and the small heads on top of it."""

from gempi_jax.models.activations import gelu, gelu_tanh
from gempi_jax.models.cache import Cache, KeyValue, Prefix, init_cache
from gempi_jax.models.config import RMS, Band, DecoderConfig, HeadNorm, Layer, Placement
from gempi_jax.models.decoder import Decoder
from gempi_jax.models.heads import ValueHead
from gempi_jax.models.lora import Adapted, LoRA, init_adapters, merge_adapters
from gempi_jax.models.positions import Dynamic, Learned, Linear, Llama3, LongRope, Rotary, Unscaled, Yarn
from gempi_jax.models.prefill import prefill
from gempi_jax.models.tempered import Tempered, tempered

__all__ = [
    "RMS",
    "Adapted",
    "Band",
    "Cache",
    "Decoder",
    "DecoderConfig",
    "Dynamic",
    "HeadNorm",
    "KeyValue",
    "Layer",
    "Learned",
    "Linear",
    "Llama3",
    "LoRA",
    "LongRope",
    "Placement",
    "Prefix",
    "Rotary",
    "Tempered",
    "Unscaled",
    "ValueHead",
    "Yarn",
    "gelu",
    "gelu_tanh",
    "init_adapters",
    "init_cache",
    "merge_adapters",
    "prefill",
    "tempered",
]
