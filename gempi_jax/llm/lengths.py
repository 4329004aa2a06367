"""Sequences that are longer than what fits: handled by a stated policy, and counted."""

import enum
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase


class TooLong(enum.Enum):
    """What happens to a text with more tokens than fit."""

    DROP = "drop"
    TRUNCATE = "truncate"
    """A prompt keeps its end (and its bos token), a completion its beginning (and so loses its eos)."""
    ERROR = "error"


class Encoded(NamedTuple):
    """Token ids of the texts that are left, and what became of the others.

    Attributes:
      tokens: ids by text.
      kept: [len(tokens)] which of the given texts they are, ascending.
      num_dropped: texts that were left out.
      num_truncated: texts that lost tokens.
    """

    tokens: list[list[int]]
    kept: Int[np.ndarray, " N"]
    num_dropped: int
    num_truncated: int


def fit_prompts(
    tokenizer: PreTrainedTokenizerBase, encoded: list[list[int]], max_length: int, policy: TooLong
) -> Encoded:
    """Prompts of at most ``max_length`` tokens; an empty one is the bos token.

    Raises:
      ValueError: an empty prompt without a bos token, one that is too long under ``ERROR``, or all dropped.
    """
    if [] in encoded and tokenizer.bos_token_id is None:
        raise ValueError(
            f"encode_prompts: prompt {encoded.index([])} has no tokens, and the tokenizer has no bos token to start "
            "from; remove the row or give the prompt some text."
        )
    encoded = [tokens or [tokenizer.bos_token_id] for tokens in encoded]
    return _fit(encoded, max_length, policy, "prompt", lambda tokens: _keep_end(tokens, max_length, tokenizer))


def fit_completions(encoded: list[list[int]], max_length: int, policy: TooLong) -> Encoded:
    """Completions of at most ``max_length`` tokens; raises as :func:`fit_prompts`."""
    return _fit(encoded, max_length, policy, "completion", lambda tokens: tokens[:max_length])


def _keep_end(tokens: list[int], max_length: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if tokens[0] == tokenizer.bos_token_id:
        return tokens[:1] + tokens[len(tokens) - max_length + 1 :]
    return tokens[len(tokens) - max_length :]


def _fit(encoded: list[list[int]], max_length: int, policy: TooLong, kind: str, truncate: Callable) -> Encoded:
    if max_length < 1:
        raise ValueError(f"encode_{kind}s: max_length is {max_length}; leave room for at least one token.")
    long = [index for index, tokens in enumerate(encoded) if len(tokens) > max_length]
    if policy is TooLong.ERROR and long:
        raise ValueError(
            f"encode_{kind}s: {len(long)} of {len(encoded)} {kind}s are longer than {max_length} tokens, first {kind} "
            f"{long[0]} with {len(encoded[long[0]])}; raise max_length, or choose TooLong.DROP or TooLong.TRUNCATE."
        )
    if policy is TooLong.TRUNCATE:
        tokens = [truncate(tokens) if len(tokens) > max_length else tokens for tokens in encoded]
        return Encoded(tokens, np.arange(len(tokens)), 0, len(long))
    if encoded and len(long) == len(encoded):
        raise ValueError(
            f"encode_{kind}s: every one of the {len(encoded)} {kind}s is longer than {max_length} tokens (shortest "
            f"{min(map(len, encoded))}), so none is left; raise max_length or choose TooLong.TRUNCATE."
        )
    kept = np.setdiff1d(np.arange(len(encoded)), np.asarray(long, int))
    return Encoded([encoded[index] for index in kept], kept, len(long), 0)
