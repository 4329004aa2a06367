"""Completions of prompts: one prefill per prompt, then one loop that stops when every sequence has ended."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from gempi_jax.llm.compaction import Given, Progress, Written, run
from gempi_jax.llm.sampling import Draw, Sampling, draw
from gempi_jax.llm.stops import Stops
from gempi_jax.models.cache import init_cache
from gempi_jax.models.prefill import prefill
from gempi_jax.numerics.keys import named_key
from gempi_jax.types import Array, Params


class Completions(NamedTuple):
    """K completions of each of G prompts, right-padded.

    Attributes:
      tokens: ids; ``pad_id`` after the end.  Compare positions with ``lengths``, never ids with ``pad_id``.
      lengths: number of real tokens, the end token included.
      sampler_log_probs: nats, of the distribution that sampled; 0 after the end.
      model_log_probs: nats, of the model at temperature 1 without truncation; 0 after the end.
      states: the hidden state that predicted each token; anything after the end; ``None`` where nobody asked.
    """

    tokens: Int[Array, "G K C"]
    lengths: Int[Array, "G K"]
    sampler_log_probs: Float[Array, "G K C"]
    model_log_probs: Float[Array, "G K C"]
    states: Float[Array, "G K C D"] | None = None

    @property
    def mask(self) -> Bool[Array, "G K C"]:
        """The real tokens, the end token included."""
        positions = jax.lax.broadcasted_iota(jnp.int32, self.tokens.shape, self.tokens.ndim - 1)
        return positions < self.lengths[..., None]


def generate(
    model,
    params: Params,
    prompts: Int[Array, "G P"],
    prompt_lengths: Int[Array, "G"],
    key: Array,
    *,
    num_samples: int,
    max_new_tokens: int,
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    eos_id: int | tuple[int, ...],
    pad_id: int = 0,
    stops: Stops | None = None,
    group_ids: Int[Array, "G"] | None = None,
    prefill_chunk: int | None = None,
    shrink: tuple[int, ...] = (),
    keep_states: bool = False,
) -> Completions:
    """Samples ``num_samples`` completions of each prompt, with the log-probabilities of the sampler and of the model.

    A completion depends on the key, its group's id, its own index and its prompt alone: the number of devices, the
    sharding of G, other prompts of the batch and the padding never change it (beyond the rounding of the matrix
    products, which a batch's shape may change).

    Args:
      model: a decoder with ``prefill``, ``decode`` and ``logits``.
      params: its parameters.
      prompts: right-padded; what stands beyond ``prompt_lengths`` changes nothing.
      prompt_lengths: number of real tokens, at least 1.
      key: root of all randomness of this call.
      num_samples: K.
      max_new_tokens: C.
      temperature: 0 is greedy.
      top_k, top_p, min_p: see :class:`gempi_jax.llm.sampling.Sampling`.
      eos_id: the token or tokens that end a completion; they are counted.
      pad_id: fills up; may equal an eos.
      stops: strings that end a completion with the token in which the first of them is complete, which is counted, see
        :mod:`gempi_jax.llm.stops`.  They lie in the completion: none begins in the prompt.
      group_ids: what the randomness of each group is derived from, 0 ... G-1 by default.  Give the prompts' own
        indices when a batch is generated in parts.
      prefill_chunk: tokens of each prompt that are read at a time; see :func:`gempi_jax.models.prefill`.
      shrink: divisors of the batch, (2, 8) say: as soon as no more than half, then an eighth, of the sequences are
        alive, those go on in a batch of that size; see :func:`gempi_jax.llm.compaction.run` for what it costs.
      keep_states: returns the hidden states, too.

    Returns:
      The completions.

    Raises:
      ValueError: an argument out of its range.
    """
    _check(num_samples, max_new_tokens, shrink)
    groups, steps = prompts.shape[0], max_new_tokens
    step = _Step(
        model,
        params,
        Sampling(temperature, top_k, top_p, min_p),
        (eos_id,) if isinstance(eos_id, int) else eos_id,
        pad_id,
        stops,
    )
    hidden, prefix = prefill(model, params, prompts, prompt_lengths, chunk=prefill_chunk)
    last = jnp.take_along_axis(hidden, jnp.maximum(prompt_lengths - 1, 0)[:, None, None], axis=1)
    uniforms = _uniforms(key, jnp.arange(groups) if group_ids is None else group_ids, num_samples, steps)
    state = step.write(_start(model, (groups, num_samples), steps, pad_id, keep_states), last, uniforms)
    sizes = tuple(size for size in (groups * num_samples // divisor for divisor in shrink) if size)
    state = run(step.advance, Given(prefix, uniforms), state, steps, sizes)
    drawn, states = jax.tree.map(lambda buffer: jnp.moveaxis(buffer, 0, 2), state.written)
    return Completions(drawn.tokens, state.lengths, drawn.sampler_log_probs, drawn.model_log_probs, states)


def _check(num_samples: int, max_new_tokens: int, shrink: tuple[int, ...]) -> None:
    for name, value in (("num_samples", num_samples), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise ValueError(f"generate: {name} is {value}; give at least 1")
    if any(small <= large for small, large in zip(shrink, (1, *shrink), strict=False)):
        raise ValueError(f"generate: shrink is {shrink}; give growing whole numbers above 1, such as (2, 8)")


class _Step(NamedTuple):
    """One step of decoding: what the model says next is drawn, written down, and may end its completion."""

    model: Any
    params: Params
    sampling: Sampling
    eos_ids: tuple[int, ...]
    pad_id: int
    stops: Stops | None

    def advance(self, given: Given, state: Progress) -> Progress:
        """Reads the last tokens and writes the next."""
        hidden, cache = self._apply("decode", state.token, given.prefix, state.cache, state.step - 1)
        return self.write(state._replace(cache=cache), hidden, given.uniforms)

    def write(self, state: Progress, hidden: Array, uniforms: Array) -> Progress:
        """Draws for ``state.step`` what the sequences that are still alive say, and ends those that ended."""
        logits = self._apply("logits", hidden)
        logits = jnp.broadcast_to(logits, (*state.token.shape, logits.shape[-1]))
        drawn = draw(logits, uniforms[state.step], self.sampling)
        tokens = jnp.where(state.alive, drawn.tokens, self.pad_id)
        values = Written(Draw(tokens, *(jnp.where(state.alive, x, 0.0) for x in drawn[1:])))
        if state.written.states is not None:
            values = values._replace(states=jnp.broadcast_to(hidden, state.written.states.shape[1:]))
        written = jax.tree.map(lambda buffer, x: buffer.at[state.step].set(x), state.written, values)
        lengths = state.lengths + state.alive
        over, read = _reached(tokens, state.read, self.eos_ids, self.stops)
        return Progress(state.step + 1, tokens, state.alive & ~over, lengths, read, state.cache, written)

    def _apply(self, method: str, *args):
        return self.model.apply({"params": self.params}, *args, method=method)


def _start(model, shape: tuple[int, int], steps: int, pad_id: int, keep_states: bool) -> Progress:
    """Nothing written yet, of [G, K] sequences."""
    states = jnp.zeros((steps, *shape, model.config.hidden_size), model.dtype) if keep_states else None
    return Progress(
        step=jnp.zeros((), jnp.int32),
        token=jnp.zeros(shape, jnp.int32),
        alive=jnp.ones(shape, bool),
        lengths=jnp.zeros(shape, jnp.int32),
        read=jnp.zeros(shape, jnp.int32),
        cache=init_cache(model.config, *shape, steps, model.dtype),
        written=Written(
            Draw(
                jnp.full((steps, *shape), pad_id, jnp.int32),
                jnp.zeros((steps, *shape), jnp.float32),
                jnp.zeros((steps, *shape), jnp.float32),
            ),
            states,
        ),
    )


def _reached(tokens: Int[Array, "G K"], read: Int[Array, "G K"], eos_ids: tuple[int, ...], stops: Stops | None):
    """Whether each token ends its completion, and how much of the strings that end one stands there now."""
    over = functools.reduce(jnp.logical_or, (tokens == eos_id for eos_id in eos_ids), jnp.zeros(tokens.shape, bool))
    if stops is None:
        return over, read
    read = stops.advance(read, tokens)
    return over | (read == stops.complete), read


def _uniforms(key, group_ids, num_samples, steps):
    """One number in [0, 1) per step and sequence [C, G, K], of the group's id, the sample's index and the step."""

    def one(*indices):
        return jax.random.uniform(named_key(key, "token", *indices))

    shape = (steps, group_ids.shape[0], num_samples)
    step, group, sample = (axis.reshape(-1) for axis in jnp.indices(shape))
    # One flat vmap: nested ones take XLA three times as long to compile.
    return jax.vmap(one)(group_ids[group], sample, step).reshape(shape)
