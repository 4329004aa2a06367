"""Networks: one decoder for every family of language models, and the small heads on top of it."""

from gempi_jax.models.cache import Cache, KeyValue, Prefix, init_cache
from gempi_jax.models.config import RMS, Band, DecoderConfig, HeadNorm, Layer, Placement
from gempi_jax.models.decoder import Decoder
from gempi_jax.models.heads import ValueHead
from gempi_jax.models.positions import Learned, Linear, Rotary, Unscaled

__all__ = [
    "RMS",
    "Band",
    "Cache",
    "Decoder",
    "DecoderConfig",
    "HeadNorm",
    "KeyValue",
    "Layer",
    "Learned",
    "Linear",
    "Placement",
    "Prefix",
    "Rotary",
    "Unscaled",
    "ValueHead",
    "init_cache",
]
