"""Causal attention over a shared prompt and a sample's own tokens, one core for every pass."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from gempi_jax.models.cache import KeyValue, columns_held
from gempi_jax.models.config import DecoderConfig, HeadNorm
from gempi_jax.models.dense import Dense
from gempi_jax.models.dropout import Dropout
from gempi_jax.models.norms import Norm
from gempi_jax.models.positions import Angles, rotate
from gempi_jax.types import Array


class Visible(NamedTuple):
    """Which keys a query sees.

    Attributes:
      own: of the sample's own tokens.
      shared: of the group's prompt; ``None`` when there is no prompt.
    """

    own: Bool[Array, "Q S"]
    shared: Bool[Array, "G Q P"] | None = None


def visible(
    own_queries: Int[Array, "Q"],
    own_keys: Int[Array, "S"],
    lengths: Int[Array, "G"] | None,
    width: int,
    window: int | None,
) -> Visible:
    """Masks for queries and keys at completion positions, after prompts of which ``width`` columns are kept.

    A key at a negative position is a slot of the cache that nothing was written to.
    """
    distance = own_queries[:, None] - own_keys[None, :]
    own = (distance >= 0) & (own_keys >= 0)[None, :]
    if window is not None:
        own &= distance < window
    if lengths is None:
        return Visible(own)
    columns = columns_held(lengths, width)
    shared = jnp.broadcast_to((columns < lengths[:, None])[:, None, :], (lengths.shape[0], own_queries.shape[0], width))
    if window is not None:
        positions = lengths[:, None] + own_queries[None, :]
        shared &= positions[:, :, None] - columns[:, None, :] < window
    return Visible(own, shared)


def attend(
    queries: Float[Array, "G heads K Q dim"],
    own: KeyValue,
    shared: KeyValue | None,
    seen: Visible,
    *,
    softcap: float | None = None,
    drop=lambda weights: weights,
) -> Float[Array, "G heads K Q dim"]:
    """softmax(queries keys^T) values over the prompt's and the own keys together.

    The two blocks are separate matrix products, so a prompt's keys are never copied to its K samples.  With the heads
    before the samples both products read the same queries as they lie in memory, and nothing is transposed.  Each
    block takes its own maximum; the two are put on one scale when they are added.

    Args:
      queries: already scaled.
      own: keys and values [G, kv_heads, K, S, dim] of the samples' tokens.
      shared: keys and values [G, kv_heads, P, dim] of the group's prompt, or of its end.
      seen: the masks; every query sees at least one of its own keys.
      softcap: c of c tanh(x / c) on the logits.
      drop: dropout of the attention weights.

    Returns:
      The weighted values.
    """
    groups, heads, samples, length, dim = queries.shape
    kv_heads = own.keys.shape[1]
    # [G, kv_heads, K, heads of one kv head, Q, dim]
    rows = queries.reshape(groups, kv_heads, heads // kv_heads, samples, length, dim).swapaxes(2, 3)

    def block(key_value, mask):
        """Maximum, total and weighted values of all queries over one block of keys [*B, S, dim]."""
        keys, values = key_value
        flat = rows.reshape(*keys.shape[:-2], -1, dim)
        scores = jnp.einsum("...nd,...sd->...ns", flat, keys, preferred_element_type=jnp.float32)
        if softcap is not None:
            scores = softcap * jnp.tanh(scores / softcap)
        scores = jnp.where(mask, scores.reshape(*rows.shape[:-1], -1), -jnp.inf)
        # A query may see nothing of the prompt (a window that has moved on): the maximum must stay finite.
        largest = jax.lax.stop_gradient(jnp.maximum(scores.max(-1, keepdims=True), _LOWEST))
        weights = jnp.exp(scores - largest)
        dropped = drop(weights).astype(values.dtype).reshape(*flat.shape[:-1], -1)
        mixed = jnp.einsum("...ns,...sd->...nd", dropped, values)
        return largest, weights.sum(-1, keepdims=True), mixed.reshape(rows.shape)

    largest, total, mixed = block(own, seen.own[None, None, None, None])
    if shared is None:
        mixed = mixed / total.astype(mixed.dtype)
    else:
        prompt_largest, prompt_total, prompt_mixed = block(shared, seen.shared[:, None, None, None])
        both = jnp.maximum(largest, prompt_largest)
        scale, prompt_scale = jnp.exp(largest - both), jnp.exp(prompt_largest - both)
        total = total * scale + prompt_total * prompt_scale
        mixed = mixed * (scale / total).astype(mixed.dtype) + prompt_mixed * (prompt_scale / total).astype(mixed.dtype)
    return mixed.swapaxes(2, 3).reshape(queries.shape)


_LOWEST = -1e30  # below every attention logit, and finite


class Attention(nn.Module):
    """Grouped-query attention with its projections.

    Attributes:
      config: the decoder's.
      logit_scale: this layer's factor on the attention logits.
      dtype: of the activations.
    """

    config: DecoderConfig
    logit_scale: float = 1.0
    dtype: Any = jnp.float32

    def setup(self):
        config = self.config
        kernel = nn.initializers.normal(config.initializer_range)
        # GPT-2's rule: what adds to the residual stream starts smaller the more layers add to it.
        last = nn.initializers.normal(config.initializer_range / math.sqrt(2 * config.num_layers))

        def project(heads):
            return Dense(heads * config.head_dim, use_bias=config.qkv_bias, dtype=self.dtype, kernel_init=kernel)

        self.q_proj = project(config.num_heads)
        self.k_proj = project(config.num_kv_heads)
        self.v_proj = project(config.num_kv_heads)
        self.o_proj = Dense(config.hidden_size, use_bias=config.output_bias, dtype=self.dtype, kernel_init=last)
        if config.head_norm is not HeadNorm.NONE:
            self.q_norm = Norm(config.norm, self.dtype)
            self.k_norm = Norm(config.norm, self.dtype)
        self.dropout = Dropout(config.attention_dropout)

    def project(self, hidden: Float[Array, "G K Q D"], angles: Angles | None):
        """Scaled, rotated queries [G, heads, K, Q, dim], and keys and values [G, kv_heads, K, Q, dim]."""
        config = self.config
        queries, keys, values = self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden)
        if config.head_norm is HeadNorm.PROJECTION:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        split = (*hidden.shape[:-1], -1, config.head_dim)
        queries, keys, values = queries.reshape(split), keys.reshape(split), values.reshape(split)
        if config.head_norm is HeadNorm.PER_HEAD:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        if angles is not None:
            queries, keys = rotate(queries, angles), rotate(keys, angles)
        queries, keys, values = (jnp.moveaxis(x, -2, 1) for x in (queries, keys, values))
        scale = config.head_dim**-0.5 if config.query_scale is None else config.query_scale
        return queries * jnp.asarray(scale * self.logit_scale, queries.dtype), KeyValue(keys, values)

    def __call__(
        self,
        queries: Float[Array, "G heads K Q dim"],
        own: KeyValue,
        shared: KeyValue | None,
        seen: Visible,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "G K Q D"]:
        """Attends and projects back to the residual stream."""
        mixed = attend(
            queries,
            own,
            shared,
            seen,
            softcap=self.config.attention_softcap,
            drop=lambda weights: self.dropout(weights, deterministic=deterministic),
        )
        mixed = jnp.moveaxis(mixed, 1, 3)
        return self.o_proj(mixed.reshape(*mixed.shape[:3], -1))
