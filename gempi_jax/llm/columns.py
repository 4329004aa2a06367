"""The columns of a dataset, by the names that TRL uses: renamed as asked, and checked row by row.

==================================  ==========================================================
``prompt``                          for rollouts
``prompt, completion``              demonstrations
``prompt, completion, reward``      scored completions, for offline methods; ``log_prob`` of who wrote them
``prompt, chosen, rejected``        preferences (``chosen, rejected`` where they hold the prompt)
``prompt, completion, label``       unpaired preferences
``messages``; ``text``              whole conversations; whole texts
==================================  ==========================================================

Texts are strings, or role lists ``[{"role": "user", "content": "..."}, ...]``.  Where a row has ``messages``, these are
what is read, whatever ``prompt`` stands beside them.  ``tools`` and ``chat_template_kwargs`` are for the chat template.
Other columns are kept: they reach the reward functions by name.
"""

import difflib
import numbers
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]
ColumnNames = Mapping[str, str | Sequence[str]]
"""Names in the file to names here; one column may get several names, ``{"answer": ["answer", "completion"]}``."""


class DataError(ValueError):
    """Rows that cannot be used as they are."""


def rename_columns(row: Row, columns: ColumnNames, where: str) -> Row:
    """The row under new names; columns that are not named stay as they are, and a row may lack one that is.

    Args:
      row: by its own names.
      columns: see ``ColumnNames``.
      where: place of the row, for the error.

    Raises:
      DataError: the row has another column of the new name.
    """
    renamed = {name: value for name, value in row.items() if name not in columns}
    for source, targets in columns.items():
        if source not in row:
            continue
        for target in [targets] if isinstance(targets, str) else targets:
            if target in renamed:
                raise DataError(
                    f"{where}: two columns would be called {target!r}, {source!r} and one more; map the other to "
                    "another name."
                )
            renamed[target] = row[source]
    return renamed


def check_mapping(columns: ColumnNames, rows: Iterable[tuple[str, Any]]) -> None:
    """Is every column that is to be renamed in some row?  Reads no more rows than it has to.

    Args:
      columns: see ``ColumnNames``.
      rows: (place, row), by their own names.

    Raises:
      DataError: a column is in none; shows what the first row has.
    """
    unseen, first = dict.fromkeys(columns), None
    for where, row in rows:
        if not unseen:
            return
        if isinstance(row, dict):
            first = first or (where, row)
            unseen = {source: None for source in unseen if source not in row}
    if unseen and first:
        where, row = first
        raise DataError(f"{where}: {missing_column(next(iter(unseen)), row)} Correct the name in the column mapping.")


def check_row(row: Row, required: Iterable[str], where: str) -> None:
    """Are the columns there, and of the types that they have to be?

    Args:
      row: under the names of this package.
      required: columns that it must have.
      where: place of the row, for the error.

    Raises:
      DataError: names place, column, value and what is expected.
    """
    for name in required:
        if name not in row:
            raise DataError(f"{where}: {missing_column(name, row)} {_advice(name, row)}")
    for name in _TEXTS & row.keys():
        if not _is_text(row[name]):
            raise DataError(
                f"{where}: {name!r} is {start_of(row[name])}; it has to be a string, or a list of messages such as "
                '{"role": "user", "content": "..."}.'
            )
    if "messages" in row and (isinstance(row["messages"], str) or not _is_text(row["messages"])):
        raise DataError(f"{where}: 'messages' is {start_of(row['messages'])}; it has to be a list of messages.")
    if is_text_row(row) and not (isinstance(row["text"], str) and row["text"]):
        raise DataError(f"{where}: 'text' is {start_of(row['text'])}; it has to be a string with something in it.")
    if "reward" in row and not _is_finite(row["reward"]):
        raise DataError(f"{where}: 'reward' is {start_of(row['reward'])}; it has to be a finite number (a float32).")


def is_text_row(row: Mapping[str, Any]) -> bool:
    """Is it a whole text, for plain language modelling?  Beside a prompt or messages, ``text`` is any other column."""
    return "text" in row and not row.keys() & {"prompt", "completion", "messages"}


def missing_column(name: str, available: Collection[str]) -> str:
    """A sentence about a column that is not there: what is, and which is nearest."""
    if not available:
        return f"there is no column {name!r}; the row has none at all."
    there = ", ".join(map(repr, available))
    return f"there is no column {name!r}; there are {there}, nearest {_nearest(name, available)!r}."


def _advice(name: str, row: Row) -> str:
    if "messages" in row:
        return "Conversations become prompts and completions by gempi_jax.llm.conversions.to_prompt_completion."
    return f"Name the column that holds it in the column mapping: {{'its name': {name!r}}}."


def is_conversational(value: Any) -> bool:
    """Is it a role list (rather than a string)?"""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 0
        and all(isinstance(message, Mapping) and isinstance(message.get("role"), str) for message in value)
        and all("content" in message or "tool_calls" in message for message in value)
    )


_LARGEST = float(np.finfo(np.float32).max)
_TEXTS = frozenset({"prompt", "completion", "chosen", "rejected"})
ROLE_LISTS = _TEXTS | {"messages"}
"""Columns that may hold role lists."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or is_conversational(value)


def _is_finite(value: Any) -> bool:
    # Compared before it is converted: whole numbers have no largest.  NaN compares false.
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _nearest(name: str, available: Collection[str]) -> str:
    return next(iter(difflib.get_close_matches(name, list(available), n=1, cutoff=0.0)), "...")


def start_of(value: Any) -> str:
    """How a value begins, for errors."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
