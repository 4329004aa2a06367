"""The one decoder-only language model; Llama, GPT-2 and the others are values of its config."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Int

from gempi_jax.models.attention import Attention, Visible, visible
from gempi_jax.models.cache import Cache, KeyValue, Prefix, make_prefix, positions_held, write
from gempi_jax.models.config import DecoderConfig, Placement
from gempi_jax.models.dense import product
from gempi_jax.models.dropout import Dropout
from gempi_jax.models.mlp import MLP
from gempi_jax.models.norms import Norm
from gempi_jax.models.positions import Angles, Learned, Rotary, rotary_angles
from gempi_jax.types import Array


class Block(nn.Module):
    """Attention and MLP, each with its norms and its residual."""

    config: DecoderConfig
    layer: int
    dtype: Any = jnp.float32

    def setup(self):
        config = self.config
        self.attention = Attention(config, config.band(self.layer).scale, self.dtype)
        self.mlp = MLP(config, self.dtype)
        if config.placement is not Placement.POST:
            self.attention_norm = Norm(config.norm, self.dtype)
            self.mlp_norm = Norm(config.norm, self.dtype)
        if config.placement is not Placement.PRE:
            self.attention_out_norm = Norm(config.norm, self.dtype)
            self.mlp_out_norm = Norm(config.norm, self.dtype)
        self.dropout = Dropout(config.residual_dropout)

    def project(self, hidden: Float[Array, "G K Q D"], angles: Angles | None):
        """Queries, and keys and values, of these positions."""
        normed = hidden if self.config.placement is Placement.POST else self.attention_norm(hidden)
        return self.attention.project(normed, angles)

    def __call__(
        self,
        hidden: Float[Array, "G K Q D"],
        queries: Float[Array, "G heads K Q dim"],
        own: KeyValue,
        shared: KeyValue | None,
        seen: Visible,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "G K Q D"]:
        """The residual stream after this block, given the queries that :meth:`project` made of it."""
        before, after = (self.config.placement is not p for p in (Placement.POST, Placement.PRE))
        update = self.attention(queries, own, shared, seen, deterministic=deterministic)
        update = self.attention_out_norm(update) if after else update
        hidden = hidden + self.dropout(update, deterministic=deterministic)
        update = self.mlp(self.mlp_norm(hidden) if before else hidden)
        update = self.mlp_out_norm(update) if after else update
        return hidden + self.dropout(update, deterministic=deterministic)


class Decoder(nn.Module):
    """A causal language model.

    ``__call__`` is the plain forward pass.  For groups of completions that share a prompt, ``prefill`` reads each
    prompt once, ``extend`` scores all its completions at once, ``decode`` takes one more token each; ``logits`` is
    the LM head.  All of them run the same blocks.

    Attributes:
      config: the architecture.
      dtype: of the activations; parameters are float32 and logits always come in float32.
    """

    config: DecoderConfig
    dtype: Any = jnp.float32

    def setup(self):
        config = self.config
        normal = nn.initializers.normal(config.initializer_range)
        self.embedding = self.param("embedding", normal, (config.vocab_size, config.hidden_size))
        if isinstance(config.positions, Learned):
            shape = (config.max_positions, config.hidden_size)
            self.position_embedding = self.param("position_embedding", normal, shape)
        self.layers = [Block(config, layer, self.dtype) for layer in range(config.num_layers)]
        self.final_norm = Norm(config.norm, self.dtype)
        if not config.tie_embeddings:
            self.lm_head = self.param("lm_head", normal, (config.hidden_size, config.vocab_size))
        self.dropout = Dropout(config.embedding_dropout)

    def __call__(self, tokens: Int[Array, "*B T"], *, deterministic: bool = True) -> Float[Array, "*B T V"]:
        """Next-token logits at every position, in float32."""
        rows = tokens.reshape(-1, tokens.shape[-1])
        length = jnp.full((rows.shape[0],), rows.shape[1], jnp.int32)
        hidden, _ = self._read(rows, length, deterministic)
        return self.logits(hidden).reshape(*tokens.shape, -1)

    def prefill(
        self, tokens: Int[Array, "G P"], lengths: Int[Array, "G"], *, deterministic: bool = True
    ) -> tuple[Float[Array, "G P D"], Prefix]:
        """Reads right-padded prompts.

        Args:
          tokens: prompts; what stands beyond ``lengths`` changes nothing.
          lengths: number of real tokens of each prompt.
          deterministic: no dropout.

        Returns:
          The hidden states after the final norm, and what completions attend to.
        """
        hidden, layers = self._read(tokens, lengths, deterministic)
        return hidden, make_prefix(self.config, layers, lengths)

    def read(
        self,
        tokens: Int[Array, "G Q"],
        cache: Cache,
        start: Int[Array, ""],
        lengths: Int[Array, "G"],
        *,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "G Q D"], Cache]:
        """The part of right-padded prompts of ``lengths`` that begins at position ``start``.

        Args:
          tokens: of this part.
          cache: keys and values of what stands before it, a slot [G, heads, 1, P, dim] for each position.
          start: position of the first token.
          lengths: number of real tokens of the whole prompts.
          deterministic: no dropout.

        Returns:
          The hidden states after the final norm, and the cache with this part filled in.
        """
        steps = start + jnp.arange(tokens.shape[-1])
        hidden, cache = self._run(tokens[:, None], steps, None, cache, deterministic, reach=lengths)
        return hidden[:, 0], cache

    def extend(
        self, tokens: Int[Array, "G K C"], prefix: Prefix, *, deterministic: bool = True
    ) -> Float[Array, "G K C D"]:
        """Reads K right-padded completions of each prompt, teacher-forced; token t sits at position lengths[g] + t."""
        steps = jnp.arange(tokens.shape[-1])
        hidden, _ = self._run(tokens, steps, prefix, None, deterministic)
        return hidden

    def decode(
        self, token: Int[Array, "G K"], prefix: Prefix, cache: Cache, step: Int[Array, ""] | int
    ) -> tuple[Float[Array, "G K D"], Cache]:
        """One token per sample at completion position ``step``.

        Args:
          token: the tokens that stand at that position.
          prefix: of :meth:`prefill`.
          cache: of :func:`init_cache` or of the previous step.
          step: 0 for the first token of the completion.

        Returns:
          The hidden state after the final norm, and the cache with this position filled in.
        """
        steps = jnp.asarray(step)[None]
        hidden, cache = self._run(token[..., None], steps, prefix, cache, True)
        return hidden[:, :, 0], cache

    def logits(self, hidden: Float[Array, "*N D"]) -> Float[Array, "*N V"]:
        """The LM head, in float32."""
        config = self.config
        head = self.embedding.T if config.tie_embeddings else self.lm_head
        flat = hidden.reshape(-1, hidden.shape[-1])
        values = product(flat, head.astype(self.dtype), jnp.float32)
        values = values.reshape(*hidden.shape[:-1], config.vocab_size)
        if config.logits_softcap is not None:
            values = config.logits_softcap * jnp.tanh(values / config.logits_softcap)
        return values

    def _read(self, rows, lengths, deterministic):
        """Whole sequences from position 0: a single sample each, no prompt before it."""
        steps = jnp.arange(rows.shape[-1])
        hidden, layers = self._run(rows[:, None], steps, None, None, deterministic, reach=lengths)
        return hidden[:, 0], tuple(KeyValue(layer.keys[:, :, 0], layer.values[:, :, 0]) for layer in layers)

    def _embed(self, tokens, positions, deterministic):
        hidden = jnp.take(self.embedding, tokens, axis=0).astype(self.dtype)
        hidden = hidden * jnp.asarray(self.config.embedding_scale, self.dtype)
        if isinstance(self.config.positions, Learned):
            learned = jnp.take(self.position_embedding, positions, axis=0).astype(self.dtype)
            hidden = hidden + learned
        return self.dropout(hidden, deterministic=deterministic)

    def _run(self, tokens, steps, prefix, cache, deterministic, reach=None):
        """All blocks over tokens [G, K, Q] at completion positions ``steps``, behind what ``cache`` holds."""
        config = self.config
        lengths = None if prefix is None else prefix.lengths
        start = jnp.zeros((1,), jnp.int32) if lengths is None else lengths
        positions = (start[:, None] + steps[None, :])[:, None]
        # A sequence read at once has its whole length in reach; one that is continued grows token by token, whether
        # its tokens are scored together or decoded one after the other.
        reach = positions + 1 if reach is None else reach[:, None, None]
        hidden = self._embed(tokens, positions, deterministic)
        angles, seen, layers = {}, {}, []
        for index, block in enumerate(self.layers):
            scheme, window = config.layer_positions(index), config.band(index).window
            if isinstance(scheme, Rotary) and scheme not in angles:
                angles[scheme] = rotary_angles(scheme, config.head_dim, positions, reach)
            queries, own = block.project(hidden, angles.get(scheme))
            if cache is not None:
                own = write(cache[index], own, steps[0])
            shared = None if prefix is None else prefix.layers[index]
            if window not in seen:
                slots = steps if cache is None else positions_held(own, steps[-1])
                width = 0 if shared is None else shared.keys.shape[-2]
                seen[window] = visible(steps, slots, lengths, width, window)
            hidden = block(hidden, queries, own, shared, seen[window], deterministic=deterministic)
            layers.append(own)
        return self.final_norm(hidden), tuple(layers)
