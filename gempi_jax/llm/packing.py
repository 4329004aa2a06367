"""From texts to rectangles of tokens: what is too long is handled by a stated policy, and counted."""

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from gempi_jax.llm.chat import Turns, encode_turns, render_completion, render_prompt
from gempi_jax.llm.columns import DataError


@dataclasses.dataclass(frozen=True)
class PowerOfTwo:
    """Rounds lengths up to smallest, 2 smallest, 4 smallest, ...: few shapes, so few compilations."""

    smallest: int = 8

    def __call__(self, length: int) -> int:
        bucket = self.smallest
        while bucket < length:
            bucket *= 2
        return bucket


@dataclasses.dataclass(frozen=True)
class MultipleOf:
    """Rounds lengths up to a multiple: less padding, more shapes."""

    size: int

    def __call__(self, length: int) -> int:
        return max(1, -(-length // self.size)) * self.size


class Padded(NamedTuple):
    """Right-padded sequences.

    Attributes:
      tokens: ids; ``pad_id`` behind each length.
      lengths: real tokens of each row.  Never found by comparing with the pad id, which may be a real token.
    """

    tokens: Int[np.ndarray, "N P"]
    lengths: Int[np.ndarray, " N"]


def pad_batch(
    sequences: Sequence[Sequence[int]],
    length: int | Callable[[int], int] = PowerOfTwo(),
    *,
    pad_id: int = 0,
) -> Padded:
    """Right-padded int32 rectangle of ``sequences``.

    Args:
      sequences: token ids, N of them.
      length: the width P, or a bucket that gives P for the longest sequence.
      pad_id: fills the rest; any id will do.

    Raises:
      ValueError: where there is no sequence, or one is longer than P.
    """
    if not len(sequences):
        raise ValueError("pad_batch: there are no sequences to pad; check for an empty batch before.")
    lengths = np.asarray([len(sequence) for sequence in sequences], np.int32)
    width = length(int(lengths.max())) if callable(length) else length
    if lengths.max() > width:
        index = int(lengths.argmax())
        raise ValueError(
            f"pad_batch: sequence {index} has {lengths[index]} tokens but rows have {width}; encode with "
            f"max_length={width}, or give a larger length."
        )
    tokens = np.full((len(sequences), width), pad_id, np.int32)
    for row, sequence in zip(tokens, sequences, strict=True):
        row[: len(sequence)] = sequence
    return Padded(tokens, lengths)


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


Text = str | Sequence[dict[str, Any]]
"""A string or a role list."""


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Text], max_length: int, policy: TooLong = TooLong.DROP
) -> Encoded:
    """Token ids of prompts, with the special tokens that this tokenizer puts in front of a text.

    Args:
      tokenizer: of the policy.
      prompts: texts, or role lists, which the tokenizer's chat template writes.
      max_length: tokens that a prompt may have: the context of the model less the completion.
      policy: what to do with longer ones.

    Raises:
      ValueError: a prompt without a token, a prompt that is too long under ``ERROR``, or all prompts dropped.
    """
    return _fit_prompts(tokenizer, [_prompt_tokens(tokenizer, prompt) for prompt in prompts], max_length, policy)


def encode_completions(
    tokenizer: PreTrainedTokenizerBase,
    completions: Sequence[Text],
    max_length: int,
    policy: TooLong = TooLong.DROP,
    *,
    prompts: Sequence[Text] | None = None,
) -> Encoded:
    """Token ids of completions as they stand, each ended by the eos token.

    Args:
      tokenizer: of the policy.
      completions: texts, or role lists.
      max_length: tokens that a completion may have, eos included.
      policy: what to do with longer ones.
      prompts: what they follow; needed for role lists, whose text depends on it.

    Raises:
      ValueError: a completion that is too long under ``ERROR``, all completions dropped, or a role list without its
        prompt.
    """
    before = [None] * len(completions) if prompts is None else prompts
    encoded = [_completion_tokens(tokenizer, *pair) for pair in zip(before, completions, strict=True)]
    return _fit_completions(encoded, max_length, policy)


class Demonstrations(NamedTuple):
    """Prompts and what is learnt behind them.

    Attributes:
      prompts, completions: ids by row.
      learnt: which tokens of each completion carry loss.
      kept: [len(prompts)] which of the given rows they are, ascending.
      num_dropped, num_truncated: rows that were left out, and that lost tokens.
    """

    prompts: list[list[int]]
    completions: list[list[int]]
    learnt: list[list[bool]]
    kept: Int[np.ndarray, " N"]
    num_dropped: int
    num_truncated: int


def encode_demonstrations(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    max_prompt_length: int,
    max_completion_length: int,
    long_prompts: TooLong = TooLong.DROP,
    long_completions: TooLong = TooLong.DROP,
) -> Demonstrations:
    """Token ids of rows with ``messages``, or with ``prompt`` and ``completion`` (strings or role lists).

    Of conversations, the assistant's tokens carry loss, its end tokens included, in every one of its turns: of a
    ``completion`` those in it, of ``messages`` all.  Where those begin, the completion begins.

    Raises:
      DataError, ValueError: as :func:`encode_prompts` and :func:`encode_completions`.
    """
    turns = [_turns(tokenizer, row) for row in rows]
    texts = [turn.completion for turn in turns]
    completions = _fit_completions(texts, max_completion_length, long_completions)
    turns = [turns[i] for i in completions.kept]
    prompts = _fit_prompts(tokenizer, [turn.prompt for turn in turns], max_prompt_length, long_prompts)
    tokens = [completions.tokens[i] for i in prompts.kept]
    learnt = [turns[i].learnt[: len(completions.tokens[i])] for i in prompts.kept]
    return Demonstrations(
        prompts.tokens,
        tokens,
        learnt,
        completions.kept[prompts.kept],
        prompts.num_dropped + completions.num_dropped,
        prompts.num_truncated + completions.num_truncated,
    )


def _turns(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> Turns:
    if "messages" in row:
        return encode_turns(tokenizer, row["messages"])
    prompt, completion = row["prompt"], row["completion"]
    several = not isinstance(prompt, str) and not isinstance(completion, str) and len(completion) > 1
    if several and prompt[-1]["role"] != "assistant":
        given = sum(message["role"] == "assistant" for message in prompt)
        return encode_turns(tokenizer, [*prompt, *completion], num_given=given)
    tokens = _completion_tokens(tokenizer, prompt, completion)
    return Turns(_prompt_tokens(tokenizer, prompt), tokens, [True] * len(tokens))


def _fit_prompts(
    tokenizer: PreTrainedTokenizerBase, encoded: list[list[int]], max_length: int, policy: TooLong
) -> Encoded:
    if [] in encoded and tokenizer.bos_token_id is None:
        raise ValueError(
            f"encode_prompts: prompt {encoded.index([])} has no tokens, and the tokenizer has no bos token to start "
            "from; remove the row or give the prompt some text."
        )
    encoded = [tokens or [tokenizer.bos_token_id] for tokens in encoded]
    return _fit(encoded, max_length, policy, "prompt", lambda tokens: _keep_end(tokens, max_length, tokenizer))


def _fit_completions(encoded: list[list[int]], max_length: int, policy: TooLong) -> Encoded:
    return _fit(encoded, max_length, policy, "completion", lambda tokens: tokens[:max_length])


def _prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompt: Text) -> list[int]:
    if not isinstance(prompt, str):  # a template writes the special tokens itself
        return list(tokenizer(render_prompt(tokenizer, prompt), add_special_tokens=False)["input_ids"])
    tokens = list(tokenizer(prompt)["input_ids"])
    # Some tokenizers end every text; a prompt goes on.
    return tokens[:-1] if tokens and tokens[-1] == tokenizer.eos_token_id else tokens


def _completion_tokens(tokenizer: PreTrainedTokenizerBase, prompt: Text | None, completion: Text) -> list[int]:
    eos = tokenizer.eos_token_id
    if isinstance(completion, str):
        tokens = list(tokenizer(completion, add_special_tokens=False)["input_ids"])
        return tokens if tokens[-1:] == [eos] else [*tokens, eos]
    if prompt is None or isinstance(prompt, str):
        raise DataError("a completion is a role list, but its prompt is not; make both strings or both role lists.")
    text = render_completion(tokenizer, prompt, completion)
    tokens = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    # A template ends the turn itself, perhaps with more behind it; nothing that follows the end is ever sampled.
    return tokens[: len(tokens) - tokens[::-1].index(eos)] if eos in tokens else [*tokens, eos]


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
