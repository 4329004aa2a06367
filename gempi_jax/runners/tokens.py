"""Rows as tokens: all at once, or a batch at a time where the rows do not fit into memory."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from gempi_jax.llm.encoding import Demonstrations, encode_demonstrations, encode_prompts
from gempi_jax.llm.lengths import TooLong
from gempi_jax.llm.messages import template_options
from gempi_jax.llm.padding import Padded, pad_batch
from gempi_jax.llm.preferences import ANSWERS, encode_preferences
from gempi_jax.llm.rows import place_of
from gempi_jax.llm.streaming import ChosenRows

Row = dict[str, Any]
_CHUNK = 1024
_NO_LIMIT = 1 << 30


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How rows become tokens.

    Attributes:
      tokenizer: of the policy.
      max_prompt_length, max_completion_length: tokens.
      long_prompts, long_completions: policies for what is longer.
      answers: the columns of the rows' own completions: none, ``("completion",)`` (or ``messages``, ``text``), or
        ``("chosen", "rejected")``.
      end_ids: tokens that end a completion, beside the tokenizer's own.
    """

    tokenizer: PreTrainedTokenizerBase
    max_prompt_length: int
    max_completion_length: int
    long_prompts: TooLong
    long_completions: TooLong
    answers: tuple[str, ...]
    end_ids: tuple[int, ...] = ()

    def __call__(self, rows: Sequence[Row]) -> Demonstrations:
        """Tokens of rows; without completions where none are learnt.

        Raises:
          ValueError: as ``encode_demonstrations``; with the place of the first row at fault, where rows know it.
        """
        try:
            return self._encode(rows)
        except ValueError as error:
            place = self._fault(rows)
            if not place:
                raise
            raise ValueError(f"{place}: {error}") from error

    def _fault(self, rows: Sequence[Row]) -> str:
        """Where the first row stands that fails alone; empty where none does, or it does not know."""
        # A row that is too long is at fault only where that is an error.
        prompt, completion = (
            limit if policy is TooLong.ERROR else _NO_LIMIT
            for limit, policy in (
                (self.max_prompt_length, self.long_prompts),
                (self.max_completion_length, self.long_completions),
            )
        )
        alone = dataclasses.replace(self, max_prompt_length=prompt, max_completion_length=completion)
        for row in rows:
            try:
                alone._encode([row])
            except ValueError:
                return place_of(row, "")
        return ""

    def _encode(self, rows: Sequence[Row]) -> Demonstrations:
        if not self.answers:
            encoded = encode_prompts(
                self.tokenizer,
                [row["prompt"] for row in rows],
                self.max_prompt_length,
                self.long_prompts,
                options=[template_options(row) for row in rows],
            )
            straddles = np.zeros(len(encoded.tokens), bool)
            return Demonstrations(
                encoded.tokens, [], [], straddles, encoded.kept, encoded.num_dropped, encoded.num_truncated
            )
        lengths = self.max_prompt_length, self.max_completion_length
        policies = self.long_prompts, self.long_completions
        encode = encode_preferences if self.answers == ANSWERS else encode_demonstrations
        return encode(self.tokenizer, rows, *lengths, *policies, end_ids=self.end_ids)


class Tokens(NamedTuple):
    """Rows in tokens: prompts and, where they are learnt, S completions of each and which of their tokens carry loss.

    Attributes:
      prompts: tokens [N, P], lengths [N].
      completions: tokens [N, S, C], lengths [N, S].
      learnt: [N, S, C].
    """

    prompts: Padded
    completions: Padded | None
    learnt: np.ndarray | None


class Stored:
    """All rows in tokens, in rectangles as wide as the longest that is left.

    Args:
      rows: as in the dataset.
      encoding: how they become tokens.

    Attributes:
      rows: those that are left.
      widths: tokens of the longest prompt and of the longest completion.
      num_dropped, num_truncated: rows that were longer, by policy.
      num_straddling: rows that are left in which a token lies across the seam of prompt and completion.
    """

    def __init__(self, rows: Sequence[Row], encoding: Encoding):
        encoded = encoding(rows)
        self.rows: Sequence[Row] = [rows[i] for i in encoded.kept]
        self.num_dropped, self.num_truncated = encoded.num_dropped, encoded.num_truncated
        self.num_straddling = int(encoded.straddles.sum())
        self.widths = _longest(encoded.prompts), _longest(encoded.completions)
        self._tokens = _pad(encoded, self.widths)

    def take(self, index: np.ndarray, rows: Sequence[Row]) -> Tokens:
        """The tokens of the rows at ``index``; ``rows`` are these rows."""
        prompts, completions, learnt = self._tokens
        if completions is None:
            return Tokens(_at(prompts, index), None, None)
        return Tokens(_at(prompts, index), _at(completions, index), learnt[index])


class Streamed:
    """As :class:`Stored`, with rows that are read and encoded when a batch asks for them.

    One pass over the rows finds which are left and how long they are, so that batches are those of :class:`Stored`.
    """

    def __init__(self, rows: Sequence[Row], encoding: Encoding):
        self._encoding = encoding
        lengths, straddles = map(np.concatenate, zip(*_lengths(rows, encoding), strict=True))
        limits = np.array([encoding.max_prompt_length, encoding.max_completion_length])
        longer, policies = lengths > limits, (encoding.long_prompts, encoding.long_completions)
        kept = np.ones(len(lengths), bool)
        for kind, policy, limit, long in zip(("prompt", "completion"), policies, limits, longer.T, strict=True):
            if policy is TooLong.ERROR and long.any():
                raise ValueError(
                    f"{place_of(rows[int(long.argmax())], f'row {long.argmax()}')}: its {kind} is longer than {limit} "
                    f"tokens, as in {long.sum()} of {len(long)} rows; raise the limit, or choose to drop or truncate"
                )
            kept &= ~long if policy is TooLong.DROP else True
        if not kept.any():
            raise ValueError(
                f"every one of the {len(kept)} rows is longer than {limits.tolist()} tokens; raise the limits"
            )
        self.rows: Sequence[Row] = ChosenRows(rows, np.flatnonzero(kept))
        self.num_dropped, self.num_truncated = int((~kept).sum()), int(longer[kept].sum())
        self.num_straddling = int(straddles[kept].sum())
        self.widths = tuple(np.minimum(lengths[kept].max(0), limits).tolist())

    def take(self, index: np.ndarray, rows: Sequence[Row]) -> Tokens:
        """The tokens of the rows at ``index``; ``rows`` are these rows."""
        return _pad(self._encoding(rows), self.widths)


def _lengths(rows: Sequence[Row], encoding: Encoding) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokens of each row's prompt and completion [N, 2], and which rows straddle [N], some rows at a time."""
    whole = dataclasses.replace(encoding, max_prompt_length=_NO_LIMIT, max_completion_length=_NO_LIMIT)
    for start in range(0, len(rows), _CHUNK):
        part = [rows[i] for i in range(start, min(start + _CHUNK, len(rows)))]
        try:
            encoded = whole(part)
        except ValueError as error:
            if place_of(part[0], ""):
                raise
            raise ValueError(f"of the rows from {start}: {error}") from error
        completions = encoded.completions or [[]] * len(part)
        longest = np.array([len(c) for c in completions]).reshape(len(part), -1).max(-1)
        lengths = np.stack([[len(p) for p in encoded.prompts], longest], axis=-1)
        yield lengths, encoded.straddles


def _pad(encoded: Demonstrations, widths: tuple[int, int]) -> Tokens:
    prompts = pad_batch(encoded.prompts, widths[0])
    if not encoded.completions:
        return Tokens(prompts, None, None)
    number = len(encoded.prompts)
    learnt = pad_batch(encoded.learnt, widths[1]).tokens.astype(bool)
    tokens, lengths = pad_batch(encoded.completions, widths[1])
    completions = Padded(tokens.reshape(number, -1, widths[1]), lengths.reshape(number, -1))
    return Tokens(prompts, completions, learnt.reshape(completions.tokens.shape))


def _at(padded: Padded, index: np.ndarray) -> Padded:
    return Padded(padded.tokens[index], padded.lengths[index])


def _longest(sequences: Sequence[Sequence[int]]) -> int:
    return max(map(len, sequences), default=0)
