"""The safetensors format, read by memory map and written one tensor at a time.

A file is an 8-byte little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, and the data.  It
cannot hold code, and every claim of the header is checked against the file's size before a byte of data is used.
"""

import json
import os
import pathlib
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Of other types only the size matters: buffers of integers and booleans are passed over by name.
_SIZES = {"F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "U16": 2, "U32": 4, "U64": 8}
_SIZES |= {"F8_E4M3": 1, "F8_E5M2": 1} | {name: dtype.itemsize for name, dtype in DTYPES.items()}
_LARGEST_HEADER = 100_000_000


class Entry(NamedTuple):
    """Where one tensor lies in its file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int

    @property
    def floating(self) -> bool:
        """Whether its numbers are floating-point; a checkpoint's integers and booleans are buffers."""
        return self.dtype.startswith(("F", "BF"))


class TensorFile:
    """A safetensors file, open for reading; arrays are views into the file until they are copied."""

    def __init__(self, path: pathlib.Path):
        """Opens and checks ``path``.

        Raises:
          ValueError: truncated, corrupt, or not such a file at all.
        """
        self.path = path
        self._size = path.stat().st_size
        self._start = 0
        self.entries = self._read_header()
        self._bytes = np.memmap(path, np.uint8, "r")

    def _corrupt(self, reason: str) -> ValueError:
        return ValueError(f"{self.path} is truncated or corrupt: {reason}; download or export it again")

    def _read_header(self) -> dict[str, Entry]:
        with self.path.open("rb") as file:
            start = file.read(8)
            if len(start) < 8:
                raise self._corrupt(f"it has {self._size} bytes, and the header's length alone takes 8")
            (length,) = struct.unpack("<Q", start)
            if length > min(self._size - 8, _LARGEST_HEADER):
                raise self._corrupt(f"its header claims {length} bytes, the file has {self._size}")
            try:
                header = json.loads(file.read(length))
            except (ValueError, RecursionError) as error:
                raise self._corrupt("its header is not JSON") from error
        if not isinstance(header, dict):
            raise self._corrupt("its header is no JSON object")
        header.pop("__metadata__", None)
        self._start = 8 + length
        entries = {name: self._entry(name, value) for name, value in header.items()}
        used = sum(_SIZES[entry.dtype] * _count(entry.shape) for entry in entries.values())
        if used != self._size - self._start:
            raise self._corrupt(f"its tensors take {used} bytes, the file has {self._size - self._start} for them")
        return entries

    def _entry(self, name: str, value: Any) -> Entry:
        try:
            dtype, shape, (begin, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
            whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        except (TypeError, KeyError, ValueError) as error:
            raise self._corrupt(f"its header's entry for {name!r} is malformed") from error
        if not whole or dtype not in _SIZES:
            raise self._corrupt(f"its header's entry for {name!r} is malformed (dtype {dtype!r}, shape {shape!r})")
        size = _SIZES[dtype] * _count(shape)
        if end - begin != size or self._start + end > self._size:
            raise self._corrupt(f"tensor {name!r} {dtype} {shape} needs {size} bytes, and {begin}:{end} are given")
        return Entry(dtype, shape, self._start + begin)

    def view(self, name: str) -> np.ndarray:
        """A tensor as a view into the file.

        Raises:
          ValueError: its type is not one of float32, bfloat16 and float16.
        """
        entry = self.entries[name]
        if entry.dtype not in DTYPES:
            raise ValueError(
                f"{self.path}: tensor {name!r} has type {entry.dtype}; supported are {', '.join(DTYPES)}. Convert the "
                "checkpoint, for instance with model.to(torch.bfloat16).save_pretrained(...)"
            )
        size = _SIZES[entry.dtype] * _count(entry.shape)
        return self._bytes[entry.begin : entry.begin + size].view(DTYPES[entry.dtype]).reshape(entry.shape)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


class Plan(NamedTuple):
    """A tensor to be written: type and shape now, the array only when its turn comes."""

    dtype: np.dtype
    shape: tuple[int, ...]


def write_tensors(path: pathlib.Path, plans: Mapping[str, Plan], arrays: Iterator[tuple[str, np.ndarray]]) -> None:
    """Writes a safetensors file; it appears under its name only when it is complete.

    Args:
      path: the file.
      plans: what will come, in order.
      arrays: the tensors in the same order, made one at a time so that only one is in memory.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, plan in plans.items():
        size = plan.dtype.itemsize * _count(plan.shape)
        offsets = [position, position + size]
        header[name] = {"dtype": _NAMES[plan.dtype], "shape": list(plan.shape), "data_offsets": offsets}
        position += size
    text = json.dumps(header, separators=(",", ":")).encode()
    # Data starts at a multiple of 8, so that views into the file are aligned.
    text += b" " * (-len(text) % 8)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for (name, array), expected in zip(arrays, plans, strict=True):
            if name != expected or Plan(array.dtype, array.shape) != plans[name]:
                raise ValueError(f"tensor {name!r} is {array.dtype} {array.shape}, planned was {plans[expected]}")
            file.write(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
