"""Rows from files and lists, and which rows each step takes."""

import functools
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from gempi_jax.llm.columns import ColumnNames, DataError, Row, check_mapping, check_row, rename_columns
from gempi_jax.llm.messages import plain_row
from gempi_jax.llm.rows import PlacedRow, check_characters
from gempi_jax.llm.tables import ParquetRows, SavedRows


def load_rows(
    source: str | pathlib.Path | Iterable[Row],
    *,
    columns: ColumnNames | None = None,
    required: Sequence[str] = ("prompt",),
) -> list[Row]:
    """All rows of a dataset, renamed and checked; each knows its place, see ``PlacedRow``.

    Args:
      source: a ``.jsonl``, ``.json`` or ``.parquet`` file, a folder of such files or one that ``datasets`` saved, or
        rows in memory.
      columns: names in the source to names here, ``{"question": "prompt"}``; a list gives a column several names.
      required: columns that every row must have (after renaming).

    Raises:
      FileNotFoundError: nothing is at the path.
      ImportError: a library for the format is missing; names the line that installs it.
      DataError: a malformed row (with file and line), a missing column, a value of a wrong type, half a character, no
        rows at all.
    """
    if isinstance(source, (str, pathlib.Path)):
        name, rows = str(source), _read(pathlib.Path(source).expanduser())
    else:
        name, rows = "the dataset", ((f"row {index} (from 0)", row) for index, row in enumerate(source))
    read = list(rows)
    if not read:
        raise DataError(f"{name} is empty; there has to be at least one row.")
    check_mapping(columns or {}, read)
    return [prepare_row(row, where, columns, required) for where, row in read]


def prepare_row(row: Any, where: str, columns: ColumnNames | None, required: Sequence[str]) -> PlacedRow:
    """One row, renamed and checked; see ``load_rows``."""
    if not isinstance(row, dict):
        raise DataError(f"{where}: a row has to be an object with named columns, not {str(row)[:60]!r}.")
    check_characters(row, where)
    row = rename_columns(row, columns or {}, where)
    check_row(row, required, where)
    return PlacedRow(plain_row(row, where), where)


def parse_line(line: bytes, where: str) -> Any:
    """The value of a line of JSON; an error shows the place and how the line starts."""
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8 ({error.reason} at byte {error.start}); it starts {line[:60]!r}."
        ) from error
    except (ValueError, RecursionError) as error:
        start = line[:60].decode("utf-8", "replace").rstrip()
        raise DataError(
            f"{where}: not JSON ({error}); it starts {start!r}. Put one JSON object on each line."
        ) from error


def batch_indices(num_rows: int, batch_size: int, step: int, seed: int) -> Int[np.ndarray, " B"]:
    """The rows of a step: a new permutation in each epoch, and nothing to remember between steps.

    Steps read the permutations one behind the other: a batch at the end of an epoch is filled from the next, and no row
    is left out.

    Args:
      num_rows: of the dataset.
      batch_size: B.
      step: from 0.
      seed: of the order.

    Raises:
      ValueError: where there are no rows, an empty batch or a negative step.
    """
    if num_rows < 1 or batch_size < 1 or step < 0:
        raise ValueError(
            f"batch_indices: num_rows {num_rows}, batch_size {batch_size}, step {step}; the first two have to be 1 or "
            "more, the step 0 or more."
        )
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, places = np.divmod(positions, num_rows)
    return np.array([_permutation(num_rows, int(e), seed)[p] for e, p in zip(epochs, places, strict=True)], np.int64)


@functools.lru_cache(maxsize=4)
def _permutation(num_rows: int, epoch: int, seed: int) -> Int[np.ndarray, " N"]:
    return np.random.default_rng([seed % 2**64, epoch]).permutation(num_rows)


def find_files(path: pathlib.Path) -> list[pathlib.Path]:
    """The files of a dataset in order: itself, those of a folder, or a folder that ``datasets`` saved.

    Of a folder's, hidden ones are passed over: systems put files of their own beside the user's.

    Raises:
      FileNotFoundError: nothing is there.
      DataError: an ending that is not known, or a folder of several splits.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no dataset at {path}; give the path of a file or folder that exists.")
    if not path.is_dir():
        if path.suffix not in _READERS:
            raise DataError(f"{path}: the ending {path.suffix!r} is not known; use one of {', '.join(_READERS)}.")
        return [path]
    if (path / "dataset_dict.json").is_file():
        splits = sorted(child.name for child in path.iterdir() if child.is_dir())
        raise DataError(f"{path} holds several splits; give the folder of one: {', '.join(splits)}.")
    if (path / "state.json").is_file():
        return [path]
    files = sorted(
        file for file in path.iterdir() if file.suffix in _READERS and file.is_file() and not file.name.startswith(".")
    )
    if not files:
        raise FileNotFoundError(f"{path} holds no dataset; expected files that end in {', '.join(_READERS)}.")
    return files


def _read(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
    """(place, row) of each row of a file or folder."""
    for file in find_files(path):
        yield from _read_table(SavedRows(file)) if file.is_dir() else _READERS[file.suffix](file)


def _read_jsonl(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                yield f"{path}:{number}", parse_line(line, f"{path}:{number}")


def _read_json(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
    """A list of rows in one file; many files of this ending hold lines in truth."""
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if not content.lstrip().startswith(b"["):
        yield from _read_jsonl(path)
        return
    yield from ((f"{path}, row {index} (from 0)", row) for index, row in enumerate(parse_line(content, str(path))))


def _read_table(table: ParquetRows | SavedRows) -> Iterator[tuple[str, Any]]:
    return map(table.read, range(len(table)))


def _read_parquet(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
    return _read_table(ParquetRows(path))


_READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".parquet": _read_parquet}
