"""Decoding without the sequences that have ended: those still alive go on in smaller batches."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from gempi_jax.llm.sampling import Draw
from gempi_jax.types import Array


class Progress(NamedTuple):
    """What the decoding loop carries; buffers are time-major so that a step writes one contiguous slab.

    ``read`` is the state of :class:`gempi_jax.llm.stops.Stops`.
    """

    step: Int[Array, ""]
    token: Int[Array, "G K"]
    alive: Bool[Array, "G K"]
    lengths: Int[Array, "G K"]
    read: Int[Array, "G K"]
    cache: Any
    written: "Written"


class Written(NamedTuple):
    """What is kept of every position, time-major.

    Attributes:
      drawn: tokens and their log-probs [C, G, K].
      states: the hidden states that predicted them [C, G, K, D]; ``None`` where nobody asked.
    """

    drawn: Draw
    states: Float[Array, "C G K D"] | None = None


class Given(NamedTuple):
    """What the decoding loop reads and never changes.

    Attributes:
      prefix: the prompts of the groups.
      uniforms: the randomness of each step and sequence.
    """

    prefix: Any
    uniforms: Float[Array, "C G K"]


def run(
    advance: Callable[[Given, Progress], Progress], given: Given, state: Progress, steps: int, sizes: tuple[int, ...]
) -> Progress:
    """Advances until ``steps`` or until all sequences have ended.

    As soon as no more than ``sizes[0]`` sequences are alive they go on by themselves, each as a group of its own with
    a copy of its prompt's keys, until no more than ``sizes[1]`` are, and so on.  XLA compiles a loop for every size.

      It pays where lengths vary widely.  On one CPU core, a Llama of 5.0 M parameters with prompts of 32 tokens and
    lengths that are geometric with mean 32, cut at 128, takes 29.9 s for 256 sequences and 13.5 s with divisors (2, 8);
    64 sequences 4.7 s, and 2.0 s with (2, 4, 8, 16).  Samples no longer share a prompt then: 16 prompts of 4 samples
    gain less, 2.5 s to 1.8 s, and short completions of a small model nothing (256 prompts of 28 tokens, 4 samples, two
    layers of width 128, 16 tokens of at most 64: 2.6 to 2.7 s against 2.5 to 3.3 s).  Every size takes seconds more
    to compile.  For one device: sequences leave their groups' places, so several would exchange them.

    Args:
      advance: one step.
      given: read at each step.
      state: where to start.
      steps: how many positions there are.
      sizes: of the smaller batches, decreasing; empty to carry all sequences to the end.

    Returns:
      The state at the end; of ``written`` and ``lengths`` all that was decoded in smaller batches, too.
    """
    size = sizes[0] if sizes else 0
    state = jax.lax.while_loop(
        lambda state: (state.step < steps) & (state.alive.sum() > size), lambda state: advance(given, state), state
    )
    if not sizes:
        return state
    # The sequences that are alive come first; others fill up.
    rows = jnp.argsort(~state.alive.reshape(-1), stable=True)[:size]
    count = jnp.where(state.step < steps, state.alive.sum(), 0)
    part = run(advance, *_part(given, state, rows, count), steps, sizes[1:])
    written = jax.tree.map(lambda x, new: _put(x, rows, new), state.written, part.written)
    return state._replace(written=written, lengths=_put(state.lengths[None], rows, part.lengths[None])[0])


def _part(given: Given, state: Progress, rows: Int[Array, "N"], count: Int[Array, ""]) -> tuple[Given, Progress]:
    """The sequences ``rows`` of all G K, each in a group of its own; keys and values of the first ``count`` only."""
    samples = state.token.shape[1]

    def slices(row):
        group, sample = row // samples, row % samples
        cache = jax.tree.map(lambda x: _at(_at(x, group, 0), sample, 2), state.cache)
        return jax.tree.map(lambda x: _at(x, group, 0), given.prefix), cache

    def copy(index, copies):
        return jax.tree.map(
            lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, index, axis=0), copies, slices(rows[index])
        )

    # Row by row, which is a plain copy of memory; XLA's gather computes an address for every number on a CPU.
    shapes = jax.eval_shape(slices, rows[0])
    empty = jax.tree.map(lambda x: jnp.zeros((rows.size, *x.shape[1:]), x.dtype), shapes)
    prefix, cache = jax.lax.fori_loop(0, count, copy, empty)
    each = (state.token, state.alive, state.lengths, state.read)
    each = (_columns(x[None], rows)[0] for x in each)
    written = jax.tree.map(lambda x: _columns(x, rows), state.written)
    return Given(prefix, _columns(given.uniforms, rows)), Progress(state.step, *each, cache, written)


def _at(values: Array, index: Int[Array, ""], axis: int) -> Array:
    """One entry of an axis, which stays."""
    return jax.lax.dynamic_slice_in_dim(values, index, 1, axis)


def _columns(values: Array, rows: Int[Array, "N"]) -> Array:
    """The sequences ``rows`` of [C, G, K, ...], as [C, N, 1, ...]."""
    return values.reshape(values.shape[0], -1, *values.shape[3:])[:, rows][:, :, None]


def _put(values: Array, rows: Int[Array, "N"], new: Array) -> Array:
    """[C, G, K, ...] with the sequences ``rows`` replaced by those of [C, N, 1, ...]."""
    flat = values.reshape(values.shape[0], -1, *values.shape[3:])
    return flat.at[:, rows].set(new[:, :, 0], unique_indices=True).reshape(values.shape)
