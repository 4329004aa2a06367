"""Rectangles of tokens from sequences of several lengths."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


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
