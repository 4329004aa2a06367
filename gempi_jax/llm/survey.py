"""One pass over all rows before a run: every row is read and checked, and what concerns all of them is noted.

Notes take 22 bytes for each row, so that files larger than memory are surveyed as lists are.
"""

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt64

from gempi_jax.llm.columns import ROLE_LISTS, Row, is_text_row
from gempi_jax.llm.rows import replaced

_UNFILLED = ROLE_LISTS | {"text", "reward", "log_prob"}
"""Columns whose absence says what a row is for."""
_PAIR = {"chosen", "rejected"}
_MOST_KINDS = 64


class Survey(NamedTuple):
    """What a pass over N rows found.

    Attributes:
      columns: that any row has, in the order in which they appeared.
      contents: a hash of each row.
      prompts: a hash of each row's prompt.
      kinds: rows whose other columns hold the same types of values, nulls apart, have the same number.
      answered: whether a row has a completion, or is a text to learn.
      compared: whether a row has a chosen and a rejected answer.
    """

    columns: tuple[str, ...]
    contents: UInt64[np.ndarray, " N"]
    prompts: UInt64[np.ndarray, " N"]
    kinds: Int[np.ndarray, " N"]
    answered: Bool[np.ndarray, " N"]
    compared: Bool[np.ndarray, " N"]

    def at(self, index: np.ndarray) -> "Survey":
        """Of some rows; the columns stay those of all."""
        return Survey(self.columns, *(notes[index] for notes in self[1:]))

    def fingerprint(self) -> dict[str, Any]:
        """Number and contents of the rows, in their order, as JSON."""
        return {"rows": len(self.contents), "contents": _digest(self.contents.tobytes()).hex()}

    def of_every_kind(self, count: int) -> list[int]:
        """The first rows, ``count`` of them, and the first row of each kind, ascending."""
        _, first = np.unique(self.kinds, return_index=True)
        return sorted({*range(min(count, len(self.kinds))), *np.sort(first)[:_MOST_KINDS].tolist()})


def survey(rows: Iterable[Row]) -> Survey:
    """Reads all rows once; whatever reading a row raises, this raises."""
    columns: dict[str, None] = {}
    numbers: dict[Any, int] = {}
    notes = []
    for row in rows:
        columns |= dict.fromkeys(row)
        kind = tuple((name, _kind(row[name])) for name in sorted(row.keys() - _UNFILLED) if row[name] is not None)
        number = numbers.setdefault(kind, len(numbers))
        notes.append(
            (_hash(row), _hash(row.get("prompt")), number, "completion" in row or is_text_row(row), row.keys() >= _PAIR)
        )
    contents, prompts, kinds, answered, compared = zip(*notes, strict=True) if notes else ((),) * 5
    return Survey(
        tuple(columns),
        np.array(contents, np.uint64),
        np.array(prompts, np.uint64),
        np.array(kinds, np.int32),
        np.array(answered, bool),
        np.array(compared, bool),
    )


def fill_columns(row: Row, columns: Collection[str]) -> Row:
    """The row with all columns that others have: ``None`` where it has none, as in a table.

    Columns whose absence means something (``completion``, ``messages``, ``reward``, ...) are left as they are.
    """
    absent = [name for name in columns if name not in row and name not in _UNFILLED]
    return replaced(row, {**row, **dict.fromkeys(absent)}) if absent else row


def _kind(value: Any) -> tuple[str, bool]:
    """The type of a value, and whether there is next to nothing in it."""
    empty = len(value) == 0 if isinstance(value, str | Sequence | Mapping) else False
    return type(value).__name__, empty or (isinstance(value, float) and math.isnan(value))


def _hash(value: Any) -> int:
    text = json.dumps(value, sort_keys=True, default=repr)
    return int.from_bytes(_digest(text.encode()), "little")


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8).digest()
