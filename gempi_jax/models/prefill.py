"""Reading prompts, at once or in chunks."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from gempi_jax.models.cache import Prefix, init_cache, make_prefix
from gempi_jax.numerics.keys import named_key
from gempi_jax.types import Array, Params


def prefill(
    model,
    params: Params,
    prompts: Int[Array, "G P"],
    lengths: Int[Array, "G"],
    *,
    chunk: int | None = None,
    dropout_key: Array | None = None,
) -> tuple[Float[Array, "G P D"], Prefix]:
    """Hidden states of right-padded prompts, and what completions attend to.

    A pass over whole prompts holds [heads, P, P] attention weights and [P, F] activations of the MLP for each of them;
    in chunks of Q tokens it is [heads, Q, P] and [Q, F], for the same products and the same result up to rounding.
    The last chunk ends with the prompts and may read again what the one before it read, so no padding is added.

    Args:
      model: a decoder with ``prefill``, and with ``read`` for chunks.
      params: its parameters.
      prompts: what stands beyond ``lengths`` changes nothing.
      lengths: number of real tokens of each prompt.
      chunk: Q, tokens of each prompt that are read at a time; ``None`` for all of them.
      dropout_key: drops with this key; ``None`` is a deterministic pass.

    Raises:
      ValueError: a chunk below 1.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"prefill: chunk is {chunk}; give at least 1, or None to read prompts at once")

    def apply(method, key, *args):
        rngs = None if key is None else {"dropout": key}
        return model.apply({"params": params}, *args, method=method, deterministic=key is None, rngs=rngs)

    groups, width = prompts.shape
    if chunk is None or chunk >= width:
        return apply("prefill", dropout_key, prompts, lengths)

    def read(carry, start):
        states, cache = carry
        tokens = jax.lax.dynamic_slice_in_dim(prompts, start, chunk, axis=1)
        key = None if dropout_key is None else named_key(dropout_key, "chunk", start)
        hidden, cache = apply("read", key, tokens, cache, start, lengths)
        return (jax.lax.dynamic_update_slice_in_dim(states, hidden, start, axis=1), cache), None

    # A slot per position, even in layers with a window: where the window's end lies differs from prompt to prompt.
    cache = init_cache(dataclasses.replace(model.config, bands=()), groups, 1, width, model.dtype)
    states = jnp.zeros((groups, width, model.config.hidden_size), model.dtype)
    starts = jnp.minimum(jnp.arange(0, width, chunk), width - chunk)
    (states, cache), _ = jax.lax.scan(read, (states, cache), starts)
    layers = jax.tree.map(lambda x: x[:, :, 0], cache)
    return states, make_prefix(model.config, layers, lengths)
