"""Keys and values that later positions attend to: functional in, functional out."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Float, Int

from gempi_jax.models.config import DecoderConfig
from gempi_jax.types import Array


class KeyValue(NamedTuple):
    """One layer's keys (already rotated) and values."""

    keys: Float[Array, "G heads *S dim"]
    values: Float[Array, "G heads *S dim"]


class Prefix(NamedTuple):
    """The prompts of G groups, once each however many completions share them.

    Attributes:
      layers: keys and values [G, heads, P, dim] of each layer.
      lengths: number of real prompt tokens; what lies beyond is never attended to.
    """

    layers: tuple[KeyValue, ...]
    lengths: Int[Array, "G"]


Cache = tuple[KeyValue, ...]
"""Keys and values [G, heads, K, C, dim] of the completions' tokens, one per layer."""


def init_cache(config: DecoderConfig, groups: int, samples: int, capacity: int, dtype: Any = jnp.float32) -> Cache:
    """Zeros for decoding ``capacity`` tokens of ``samples`` completions in each of ``groups`` groups."""
    shape = (groups, config.num_kv_heads, samples, capacity, config.head_dim)
    return tuple(KeyValue(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(config.num_layers))
