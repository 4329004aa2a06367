"""Rows that know where they stand, and what no row may hold.

An error that is found long after reading (a reward that fails, a prompt without a token) names file and row all the
same, since the place travels with the row.
"""

from collections.abc import Mapping
from typing import Any

from gempi_jax.llm.columns import DataError, Row

_DEEPEST = 100


class PlacedRow(dict[str, Any]):
    """A row and its place.

    Attributes:
      place: ``rows.jsonl:12``, the 12th line of the file (from 1), or ``rows.parquet, row 3 (from 0)``.
    """

    __slots__ = ("place",)

    def __init__(self, row: Mapping[str, Any], place: str):
        super().__init__(row)
        self.place = place


def place_of(row: Mapping[str, Any], otherwise: str) -> str:
    """Where a row stands; ``otherwise`` for one that does not know."""
    return getattr(row, "place", otherwise)


def replaced(row: Row, other: Row) -> Row:
    """``other``, in the place of ``row``."""
    return PlacedRow(other, row.place) if isinstance(row, PlacedRow) else other


def check_characters(row: Mapping[str, Any], where: str) -> None:
    """Are all texts of a row texts?

    JSON can spell one half of a pair of surrogates, which is no character: what is left of an emoji that was cut.  No
    tokenizer reads it and no file can hold it.

    Raises:
      DataError: such a half, or lists in lists without end; names place and column.
    """
    left = [(value, name, 1) for name, value in row.items()] + [(name, name, 1) for name in row]
    while left:
        value, name, depth = left.pop()
        if isinstance(value, str):
            _check_text(value, f"{where}: {name!r}")
        elif isinstance(value, Mapping | list | tuple):
            if depth > _DEEPEST:
                raise DataError(f"{where}: {name!r} is nested more than {_DEEPEST} levels deep; flatten it.")
            inside = [*value, *value.values()] if isinstance(value, Mapping) else value
            left += [(item, name, depth + 1) for item in inside]


def _check_text(text: str, where: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds {text[error.start]!r} at position {error.start}, half of a character (of an emoji that was "
            f"cut, most often), in {text[max(0, error.start - 20) : error.start + 20]!r}; remove it, or the row."
        ) from error
