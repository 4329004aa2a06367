"""Causal attention over a shared prompt and a sample's own tokens, one core for every pass."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from gempi_jax.models.cache import KeyValue
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
    own_queries: Int[Array, "Q"], own_keys: Int[Array, "S"], lengths: Int[Array, "G"] | None, width: int, window
) -> Visible:
    """Masks for queries and keys at completion positions after prompts of ``lengths`` in ``width`` columns."""
    distance = own_queries[:, None] - own_keys[None, :]
    own = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
    if lengths is None:
        return Visible(own)
    columns = jnp.arange(width)
    shared = jnp.broadcast_to(
        columns[None, None, :] < lengths[:, None, None], (lengths.shape[0], own_queries.shape[0], width)
    )
    if window is not None:
        positions = lengths[:, None] + own_queries[None, :]
        shared &= positions[:, :, None] - columns[None, None, :] < window
    return Visible(own, shared)


def attend(
    queries: Float[Array, "G K Q heads dim"],
    own: KeyValue,
    shared: KeyValue | None,
    seen: Visible,
    *,
    softcap: float | None = None,
    drop=lambda weights: weights,
) -> Float[Array, "G K Q heads dim"]:
    """softmax(queries keys^T) values over the prompt's and the own keys together.

    The two blocks are separate matrix products, so a prompt's keys are never copied to its K samples; the softmax
    over both is divided out after the products with the values, where it is cheapest.

    Args:
      queries: already scaled.
      own: keys and values [G, K, S, kv_heads, dim] of the sample's tokens.
      shared: keys and values [G, P, kv_heads, dim] of the group's prompt.
      seen: the masks; every query sees at least one key.
      softcap: c of c tanh(x / c) on the logits.
      drop: dropout of the attention weights.

    Returns:
      The weighted values.
    """
    kv_heads = own.keys.shape[-2]
    grouped = queries.reshape(*queries.shape[:3], kv_heads, -1, queries.shape[-1])

    def logits(equation, keys, mask):
        scores = jnp.einsum(equation, grouped, keys, preferred_element_type=jnp.float32)
        if softcap is not None:
            scores = softcap * jnp.tanh(scores / softcap)
        return jnp.where(mask, scores, -jnp.inf)

    blocks = [(logits("gkqhrd,gkshd->gkhrqs", own.keys, seen.own[None, None, None, None]), own.values, "s,gkshd")]
    if shared is not None:
        mask = seen.shared[:, None, None, None]
        blocks.append((logits("gkqhrd,gphd->gkhrqp", shared.keys, mask), shared.values, "p,gphd"))
    largest = blocks[0][0].max(-1, keepdims=True)
    for scores, _, _ in blocks[1:]:
        largest = jnp.maximum(largest, scores.max(-1, keepdims=True))
    largest = jax.lax.stop_gradient(largest)

    total, mixed = 0.0, 0.0
    for scores, values, letters in blocks:
        weights = jnp.exp(scores - largest)
        total = total + weights.sum(-1)
        mixed = mixed + jnp.einsum(f"gkhrq{letters}->gkqhrd", drop(weights).astype(values.dtype), values)
    total = jnp.moveaxis(total, -1, 2)[..., None]
    return (mixed / total.astype(mixed.dtype)).reshape(queries.shape)


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

    def project(self, hidden: Float[Array, "*N D"], angles: Angles | None):
        """Scaled, rotated queries [*N, heads, dim] and the keys and values [*N, kv_heads, dim] of these positions."""
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
        scale = config.head_dim**-0.5 if config.query_scale is None else config.query_scale
        return queries * jnp.asarray(scale * self.logit_scale, queries.dtype), KeyValue(keys, values)

    def __call__(
        self,
        queries: Float[Array, "G K Q heads dim"],
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
        return self.o_proj(mixed.reshape(*mixed.shape[:3], -1))
