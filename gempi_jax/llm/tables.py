"""Rows of Parquet files and of folders that ``datasets`` saved, by index, read with pyarrow alone.

``Dataset.save_to_disk`` leaves Arrow streams and a ``state.json`` that names them.  They are mapped into memory, so a
row costs no more than itself; of a Parquet file, a row costs the row group that it is in.
"""

import functools
import importlib
import json
import pathlib
from types import ModuleType
from typing import Any

import numpy as np

from gempi_jax.llm.columns import DataError

_GROUPS_KEPT = 4


class ParquetRows:
    """The rows of a Parquet file; the last row groups that were read are kept."""

    def __init__(self, path: pathlib.Path):
        """Opens ``path``.

        Raises:
          ImportError: pyarrow is missing.
          DataError: not such a file.
        """
        self.path = path
        try:
            self._file = _pyarrow("parquet", path).ParquetFile(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: not a Parquet file that can be read: {error}") from error
        metadata = self._file.metadata
        self._ends = np.cumsum([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)], dtype=np.int64)
        self._group = functools.lru_cache(_GROUPS_KEPT)(self._read_group)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, index: int) -> tuple[str, Any]:
        """(place, row) of one row.

        Raises:
          DataError: the row group is corrupt, or a value has no counterpart in Python.
        """
        group = int(np.searchsorted(self._ends, index, side="right"))
        table = self._group(group)
        place = index - int(self._ends[group]) + table.num_rows
        return _row(table.slice(place, 1), f"{self.path}, row {index} (from 0)")

    def _read_group(self, group: int):
        try:
            return self._file.read_row_group(group)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: row group {group} cannot be read: {error}") from error


class SavedRows:
    """The rows of a folder that ``Dataset.save_to_disk`` wrote."""

    def __init__(self, folder: pathlib.Path):
        """Opens ``folder``.

        Raises:
          ImportError: pyarrow is missing.
          DataError: a ``state.json`` that is not understood; a file that it names is missing or corrupt.
        """
        self.path = folder
        names = _data_files(folder)
        arrow = _pyarrow(None, folder)
        ipc = _pyarrow("ipc", folder)
        try:
            streams = [ipc.open_stream(arrow.memory_map(str(folder / name))).read_all() for name in names]
            self._table = arrow.concat_tables(streams)
        except (OSError, ValueError) as error:
            raise DataError(f"{folder}: an Arrow file that state.json names cannot be read: {error}") from error

    def __len__(self) -> int:
        return self._table.num_rows

    def read(self, index: int) -> tuple[str, Any]:
        """(place, row) of one row.

        Raises:
          DataError: a value has no counterpart in Python.
        """
        return _row(self._table.slice(index, 1), f"{self.path}, row {index} (from 0)")


def _row(table: Any, where: str) -> tuple[str, dict[str, Any]]:
    """(place, row) of a table with one; dates and times become Python's own."""
    row = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name in row:
            raise DataError(f"{where}: two columns are called {name!r}; give each a name of its own.")
        try:
            row[name] = _pythons_own(column[0].as_py())
        except (ValueError, OverflowError) as error:
            kind = table.schema.field(name).type
            raise DataError(
                f"{where}: the value of column {name!r}, of type {kind}, cannot be read ({str(error).split('. ')[0]}); "
                "save it as a string, or as a date or a time in microseconds between the years 1 and 9999."
            ) from error
    return where, row


def _pythons_own(value: Any) -> Any:
    """Without pandas pyarrow reads times in nanoseconds where they are whole microseconds; with it, pandas' own types.

    Raises:
      ValueError: nanoseconds that Python's types would lose.
    """
    if isinstance(value, list):
        return [_pythons_own(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _pythons_own(entry) for key, entry in value.items()}
    for nanoseconds, convert in (("nanosecond", "to_pydatetime"), ("nanoseconds", "to_pytimedelta")):
        if hasattr(value, convert):
            if getattr(value, nanoseconds):
                raise ValueError(f"{value} is no whole number of microseconds")
            return getattr(value, convert)()
    return value


def _data_files(folder: pathlib.Path) -> list[str]:
    path = folder / "state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        names = [file["filename"] for file in state["_data_files"]]
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise DataError(f"{path} does not name the data's files ({error!r}); save the dataset again") from error
    if state.get("_indices_data_files"):
        raise DataError(f"{path}: the rows are chosen by an index; save the dataset again, after flatten_indices()")
    outside = [name for name in names if pathlib.PurePath(str(name)).name != name]
    if outside or not names:
        raise DataError(f"{path} names {outside or 'no file'}; it must name files of its own folder")
    return names


def _pyarrow(module: str | None, path: pathlib.Path) -> ModuleType:
    try:
        return importlib.import_module(f"pyarrow.{module}" if module else "pyarrow")
    except ImportError as error:
        raise ImportError(
            f"{path}: reading it needs pyarrow, which cannot be imported ({error}): pip install pyarrow"
        ) from error
