"""Rows of files that do not fit into memory, by their index."""

import array
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np

from gempi_jax.llm.columns import ColumnNames, DataError, Row, check_mapping
from gempi_jax.llm.datasets import find_files, parse_line, prepare_row
from gempi_jax.llm.tables import ParquetRows, SavedRows

_BLOCK = 1 << 20


class _Lines:
    """The rows of a JSONL file: 16 bytes of memory each."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._begins, self._lines = _index(path)
        self._size = path.stat().st_size

    def __len__(self) -> int:
        return len(self._lines)

    def read(self, index: int) -> tuple[str, Any]:
        """(place, row) of one row."""
        where = f"{self._path}:{self._lines[index]}"
        with self._path.open("rb") as file:
            if file.seek(0, 2) != self._size:
                raise DataError(f"{self._path} changed while it was read; keep a copy that nothing writes to.")
            file.seek(int(self._begins[index]))
            line = file.readline()
        return where, parse_line(line.removeprefix(b"\xef\xbb\xbf"), where)


class StreamedRows(Sequence[Row]):
    """Files as a sequence of rows that are read when they are asked for.

    Opening JSONL reads the file once, to note where each line begins.  Any row is then one seek away, so
    ``batch_indices`` shuffles the files like a list, and the step alone is the position to resume from.  A row of a
    folder that ``datasets`` saved is as near; one of a Parquet file costs its row group, so keep those small.

    Args:
      path: a ``.jsonl`` or ``.parquet`` file, a folder of such files or one that ``datasets`` saved; they must not
        change while they are read.
      columns: names in the files to names here, see ``load_rows``.
      required: columns that every row must have.

    Raises:
      FileNotFoundError: nothing is at the path.
      ImportError: a library for the format is missing; names the line that installs it.
      DataError: there are no rows, or a format that cannot be streamed; when a row is read: it is malformed, or the
        file changed.
    """

    def __init__(
        self,
        path: str | pathlib.Path,
        *,
        columns: ColumnNames | None = None,
        required: Sequence[str] = ("prompt",),
    ):
        self._columns, self._required = columns, required
        self._files = [_open(file) for file in find_files(pathlib.Path(path).expanduser())]
        self._ends = np.cumsum([len(file) for file in self._files])
        if not len(self):
            raise DataError(f"{path} is empty; there has to be at least one row.")
        check_mapping(columns or {}, map(self._read, range(len(self))))
        self[0]  # a missing column shows in the first row already

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        where, row = self._read(range(len(self))[index])
        return prepare_row(row, where, self._columns, self._required)

    def _read(self, index: int) -> tuple[str, Any]:
        """(place, row) of one row, by its own names."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        file = self._files[number]
        return file.read(index - int(self._ends[number]) + len(file))


class ChosenRows(Sequence[Row]):
    """Some rows of a sequence, each changed by a function when it is asked for.

    Args:
      rows: all.
      index: which of them.
      change: what becomes of the row at an index of ``rows``; ``None`` leaves it.
    """

    def __init__(
        self, rows: Sequence[Row], index: Sequence[int] | np.ndarray, change: Callable[[Row, int], Row] | None = None
    ):
        self._rows, self._index, self._change = rows, index, change

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> "ChosenRows": ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return ChosenRows(self._rows, self._index[index], self._change)
        place = int(self._index[index])
        row = self._rows[place]
        return row if self._change is None else self._change(row, place)


def _open(path: pathlib.Path) -> _Lines | ParquetRows | SavedRows:
    if path.is_dir():
        return SavedRows(path)
    if path.suffix == ".parquet":
        return ParquetRows(path)
    if path.suffix != ".jsonl":
        raise DataError(
            f"{path}: a {path.suffix} file cannot be streamed; write one JSON object a line into a .jsonl file, or use "
            "Parquet."
        )
    return _Lines(path)


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
