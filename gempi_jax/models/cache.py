"""Keys and values that later positions attend to: functional in, functional out."""

from typing import Any, NamedTuple

import jax
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
      layers: keys and values [G, heads, W, dim] of each layer.  W is the prompts' width P, or the layer's window where
        that is less: then the last W real positions of each prompt.
      lengths: number of real prompt tokens; what lies beyond is never attended to.
    """

    layers: tuple[KeyValue, ...]
    lengths: Int[Array, "G"]


Cache = tuple[KeyValue, ...]
"""Keys and values [G, heads, K, S, dim] of the completions' tokens, one per layer.

A cache is a ring: position t stands in slot t mod S.  A layer that sees everything has a slot per position; one with
a window needs as many as its window.
"""


def init_cache(config: DecoderConfig, groups: int, samples: int, capacity: int, dtype: Any = jnp.float32) -> Cache:
    """Zeros for decoding ``capacity`` tokens of ``samples`` completions in each of ``groups`` groups."""

    def zeros(window: int | None) -> KeyValue:
        slots = capacity if window is None else min(window, capacity)
        shape = (groups, config.num_kv_heads, samples, slots, config.head_dim)
        return KeyValue(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    return tuple(zeros(config.band(layer).window) for layer in range(config.num_layers))


def write(cache: KeyValue, new: KeyValue, step: Int[Array, ""]) -> KeyValue:
    """The cache with the positions from ``step`` on of every sample filled in; they must not pass the last slot."""
    start = (0, 0, 0, step % cache.keys.shape[-2], 0)
    return jax.tree.map(lambda old, x: jax.lax.dynamic_update_slice(old, x.astype(old.dtype), start), cache, new)


def positions_held(cache: KeyValue, last: Int[Array, ""]) -> Int[Array, "S"]:
    """The position that each slot holds once ``last`` is written: the latest of its kind; negative where none is."""
    slots = cache.keys.shape[-2]
    return last - (last - jnp.arange(slots)) % slots


def columns_held(lengths: Int[Array, "G"], width: int) -> Int[Array, "G W"]:
    """The positions of a prefix's columns: the last ``width`` of each prompt, or all of a shorter one and more."""
    return jnp.maximum(lengths - width, 0)[:, None] + jnp.arange(width)[None]


def make_prefix(config: DecoderConfig, layers: tuple[KeyValue, ...], lengths: Int[Array, "G"]) -> Prefix:
    """What completions may still see of right-padded prompts, given the keys and values [G, heads, P, dim] of each."""

    def kept(prompts: KeyValue, window: int | None) -> KeyValue:
        if window is None or window >= prompts.keys.shape[-2]:
            return prompts
        columns = columns_held(lengths, window)[:, None, :, None]
        return jax.tree.map(lambda x: jnp.take_along_axis(x, columns, axis=2), prompts)

    windows = (config.band(layer).window for layer in range(config.num_layers))
    return Prefix(tuple(kept(layer, window) for layer, window in zip(layers, windows, strict=True)), lengths)
