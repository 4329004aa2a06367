"""Log-probabilities of given completions: each prompt read once, the LM head in chunks of positions.

The [.., V] logits of a batch never exist at once.  The head runs on the hidden states that predict completion tokens
only, a chunk at a time, and its backward pass recomputes the chunk's logits.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from gempi_jax.em import ExactDivergence, SampledDivergence, TokenDivergence
from gempi_jax.models.prefill import prefill
from gempi_jax.numerics.keys import named_key
from gempi_jax.types import Array, Params

LOGITS_BYTES = 2**26
"""Of the float32 logits that exist at a time: a chunk of the LM head has as many positions as fit, 512 of a vocabulary
of 32,000.  A batch whose logits fit whole is one chunk, without recomputation: there is nothing to save."""

FEWEST_POSITIONS = 256
"""Of a chunk, whatever the vocabulary: with fewer the LM head is read from memory more often than it is used."""


class TokenTerms(NamedTuple):
    """What the LM head says about each completion token; 0 where the mask is False.

    Attributes:
      log_probs: log pi(y_t | x, y_<t), nats, temperature 1.
      entropy: of the next-token distribution, nats.
      divergence: D_M(pi_frozen || pi_theta), nats; ``None`` when none was asked for.
    """

    log_probs: Float[Array, "G K C"]
    entropy: Float[Array, "G K C"]
    divergence: Float[Array, "G K C"] | None = None


class Scores(NamedTuple):
    """Completions under one policy.

    Attributes:
      log_probs: log pi(y_t | x, y_<t), nats, temperature 1; 0 where the mask is False.
      entropy: of the model's next-token distribution, nats; 0 where the mask is False.
      hidden: the state that predicts each completion token.
      prompt_hidden: the state at the prompt's last real token.
    """

    log_probs: Float[Array, "G K C"]
    entropy: Float[Array, "G K C"]
    hidden: Float[Array, "G K C D"]
    prompt_hidden: Float[Array, "G D"]


def hidden_states(
    model,
    params: Params,
    prompts: Int[Array, "G P"],
    prompt_lengths: Int[Array, "G"],
    completions: Int[Array, "G K C"],
    *,
    dropout_key: Array | None = None,
    prefill_chunk: int | None = None,
) -> tuple[Float[Array, "G K C D"], Float[Array, "G D"]]:
    """The states that predict each completion token, and the state at the prompt's last token.

    The first token is predicted by the prompt's last state, which the K samples share.

    Args:
      model: a decoder with ``prefill`` and ``extend``.
      params: its parameters.
      prompts: right-padded.
      prompt_lengths: number of real tokens.
      completions: right-padded.
      dropout_key: drops with this key; ``None`` is a deterministic pass.
      prefill_chunk: tokens of each prompt that are read at a time; see :func:`gempi_jax.models.prefill`.
    """
    names = "prompt", "completions"
    keys = [None if dropout_key is None else named_key(dropout_key, name) for name in names]
    hidden, prefix = prefill(model, params, prompts, prompt_lengths, chunk=prefill_chunk, dropout_key=keys[0])
    last = jnp.maximum(prompt_lengths - 1, 0)
    prompt_hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
    groups, samples, length = completions.shape
    first = jnp.broadcast_to(prompt_hidden[:, None, None], (groups, samples, 1, hidden.shape[-1]))
    if length == 1:
        return first, prompt_hidden
    rest = model.apply(
        {"params": params},
        completions[..., :-1],
        prefix,
        method="extend",
        deterministic=keys[1] is None,
        rngs=None if keys[1] is None else {"dropout": keys[1]},
    )
    return jnp.concatenate([first, rest], axis=2), prompt_hidden


def score(
    model,
    params: Params,
    prompts: Int[Array, "G P"],
    prompt_lengths: Int[Array, "G"],
    completions: Int[Array, "G K C"],
    mask: Bool[Array, "G K C"],
    *,
    dropout_key: Array | None = None,
    chunk_size: int | None = None,
    prefill_chunk: int | None = None,
) -> Scores:
    """Scores completions under one policy; see :func:`hidden_states` and :func:`token_terms`."""
    options = {"dropout_key": dropout_key, "prefill_chunk": prefill_chunk}
    hidden, prompt_hidden = hidden_states(model, params, prompts, prompt_lengths, completions, **options)
    terms = token_terms(model, params, hidden, completions, mask, chunk_size=chunk_size)
    return Scores(terms.log_probs, terms.entropy, hidden, prompt_hidden)


def token_terms(
    model,
    params: Params,
    hidden: Float[Array, "G K C D"],
    completions: Int[Array, "G K C"],
    mask: Bool[Array, "G K C"],
    *,
    frozen: tuple[Params, Float[Array, "G K C D"]] | None = None,
    divergence: TokenDivergence | None = None,
    chunk_size: int | None = None,
) -> TokenTerms:
    """log pi_theta(y_t), the entropy and D_M(pi_k || pi_theta) at each completion token.

    Gradients reach ``params`` and ``hidden``, never ``frozen``.  Chunks cut the positions inside every group, so that
    a batch whose groups lie on several devices is never gathered.

    Args:
      model: a decoder with ``logits``.
      params: of the policy that is fitted.
      hidden: the states that predict the tokens, of :func:`hidden_states`.
      completions: the tokens.
      mask: the real ones.
      frozen: parameters and hidden states of pi_k; needed for ``divergence``.
      divergence: D_M per token, exact over the vocabulary or estimated on the sampled token.
      chunk_size: how many positions' logits exist at a time, of all groups together; ``None`` for as many as
        ``LOGITS_BYTES`` hold, and at least ``FEWEST_POSITIONS``.

    Raises:
      ValueError: a divergence without ``frozen``, or a chunk size below 1.
    """
    if divergence is not None and frozen is None:
        raise ValueError("token_terms: a divergence needs frozen=(parameters, hidden states) of pi_k")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"token_terms: chunk_size is {chunk_size}; give at least 1")
    frozen_params, frozen_hidden = (None, None) if divergence is None else jax.lax.stop_gradient(frozen)

    def head(weights, states):
        return model.apply({"params": weights}, states, method="logits")

    def terms(chunk):
        shape = chunk[1].shape
        # One axis of positions: with more of them XLA's CPU backend takes twice as long for a softmax on a product.
        states, tokens, frozen_states = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(shape) :]), chunk)
        frozen_logits = None if divergence is None else head(frozen_params, frozen_states)
        values = _terms(head(params, states), tokens, frozen_logits, divergence)
        return jax.tree.map(lambda x: x.reshape(shape), values)

    chunk = (hidden, completions, frozen_hidden)
    if chunk_size is None:
        vocabulary = jax.eval_shape(head, params, hidden[:1, :1, :1]).shape[-1]
        chunk_size = max(FEWEST_POSITIONS, LOGITS_BYTES // (4 * vocabulary))
    if completions.size <= chunk_size:
        values = terms(chunk)
    else:
        values = _in_chunks(jax.checkpoint(terms), chunk, max(1, chunk_size // completions.shape[0]))
    return TokenTerms(*jax.tree.map(lambda value: jnp.where(mask, value, 0.0), values))


def _terms(logits, tokens, frozen_logits, divergence) -> TokenTerms:
    """The terms of one chunk of any shape, unmasked."""
    log_q = jax.nn.log_softmax(logits, axis=-1)
    log_probs = _chosen(log_q, tokens)
    entropy = -jnp.sum(jnp.exp(log_q) * log_q, axis=-1)
    if divergence is None:
        return TokenTerms(log_probs, entropy)
    log_p = jax.nn.log_softmax(frozen_logits, axis=-1)
    match divergence:
        case ExactDivergence(function):
            return TokenTerms(log_probs, entropy, function(log_p, log_q))
        case SampledDivergence(function):
            return TokenTerms(log_probs, entropy, function(_chosen(log_p, tokens), log_probs))
    raise TypeError(f"token_terms: divergence is {divergence!r}; give an ExactDivergence or a SampledDivergence")


def _chosen(log_probs, tokens):
    """log_probs[..., token], as a masked sum: its gradient is a select where a gather's would be a scatter."""
    ids = jax.lax.broadcasted_iota(tokens.dtype, log_probs.shape, log_probs.ndim - 1)
    return jnp.sum(jnp.where(ids == tokens[..., None], log_probs, 0.0), axis=-1)


def _in_chunks(function: Callable, inputs, per_group: int):
    """``function`` over arrays [G, K, C, ...], ``per_group`` positions of each group at a time."""
    groups, samples, length = jax.tree.leaves(inputs)[0].shape[:3]
    positions = samples * length
    count = -(-positions // per_group)
    per_group = -(-positions // count)  # chunks of one size, with as little padding as possible
    padding = count * per_group - positions

    def cut(array):
        array = array.reshape(groups, positions, *array.shape[3:])
        array = jnp.pad(array, [(0, 0), (0, padding)] + [(0, 0)] * (array.ndim - 2))
        return jnp.moveaxis(array.reshape(groups, count, per_group, *array.shape[2:]), 1, 0)

    def join(array):
        flat = jnp.moveaxis(array, 0, 1).reshape(groups, count * per_group)
        return flat[:, :positions].reshape(groups, samples, length)

    return jax.tree.map(join, jax.lax.map(function, jax.tree.map(cut, inputs)))
