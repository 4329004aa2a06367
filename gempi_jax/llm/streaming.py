"""Rows of a JSONL file that does not fit into memory, by their index."""

import array
import pathlib
from collections.abc import Sequence
from typing import overload

import numpy as np

from gempi_jax.llm.columns import ColumnNames, DataError, Row
from gempi_jax.llm.datasets import parse_line, prepare_row

_BLOCK = 1 << 20


class StreamedRows(Sequence[Row]):
    """A JSONL file as a sequence of rows that are read when they are asked for.

    Opening it reads the file once, to note where each line begins: 16 bytes of memory a row.  Any row is then one seek
    away, so ``batch_indices`` shuffles the file like a list, and the step alone is the position to resume from.

    Args:
      path: of the file; it must not change while it is read.
      columns: names in the file to names here, see ``load_rows``.
      required: columns that every row must have.

    Raises:
      FileNotFoundError: there is no such file.
      DataError: the file has no rows; when a row is read: it is malformed, or the file changed.
    """

    def __init__(
        self,
        path: str | pathlib.Path,
        *,
        columns: ColumnNames | None = None,
        required: Sequence[str] = ("prompt",),
    ):
        self._path = pathlib.Path(path).expanduser()
        if not self._path.is_file():
            raise FileNotFoundError(f"there is no dataset at {self._path}; give the path of a JSONL file that exists.")
        self._columns, self._required = columns, required
        self._begins, self._lines = _index(self._path)
        self._size = self._path.stat().st_size
        if not len(self._lines):
            raise DataError(f"{self._path} is empty; there has to be at least one row.")
        self[0]  # a wrong mapping or a missing column shows in the first row already

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        where = f"{self._path}:{self._lines[index]}"
        with self._path.open("rb") as file:
            if file.seek(0, 2) != self._size:
                raise DataError(f"{self._path} changed while it was read; keep a copy that nothing writes to.")
            file.seek(int(self._begins[index]))
            line = file.readline()
        return prepare_row(parse_line(line.removeprefix(b"\xef\xbb\xbf"), where), where, self._columns, self._required)


def _index(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """(first byte, line number) of each line that is not blank."""
    begins, lines, position = array.array("q"), array.array("q"), 0
    with path.open("rb", buffering=_BLOCK) as file:
        for number, line in enumerate(file, start=1):
            if line.strip(b" \t\r\n\xef\xbb\xbf"):
                begins.append(position)
                lines.append(number)
            position += len(line)
    return np.frombuffer(begins, np.int64), np.frombuffer(lines, np.int64)
