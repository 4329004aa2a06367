"""JSON as this repository writes it: always valid, the same bytes for the same numbers, whole files or none."""

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

ABSENT = "(absent)"
"""Stands in a comparison for a key that one side lacks."""


def jsonable(value: Any, path: str = "") -> Any:
    """Plain JSON data: tuples become lists, and numbers that JSON lacks the strings that ``float`` reads back.

    Args:
      value: nested mappings, sequences, numbers, strings, booleans, None.
      path: where the value stands, for the error.

    Raises:
      TypeError: naming the path of a value that is none of these.
    """
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"{path or 'the value'} has the key {odd[0]!r}: keys in JSON are strings")
        return {key: jsonable(item, f"{path}.{key}" if path else key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr_non_finite(value)
    raise TypeError(
        f"{path or 'the value'} is {value!r} of type {type(value).__name__}, which JSON cannot hold: "
        "pass numbers, strings, booleans, None, and lists and dicts of them"
    )


def repr_non_finite(value: float) -> str:
    """``"NaN"``, ``"Infinity"`` or ``"-Infinity"``."""
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def write_atomically(path: pathlib.Path, data: bytes) -> None:
    """Writes the whole file or leaves what was there, wherever the process is killed."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dicts by dotted key; an empty dict is a leaf of its own."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key, item in value.items():
        leaves.update(flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return leaves


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Keys with different values in two nested dicts, sorted: (dotted key, before, after).

    Args:
      before, after: compared as JSON, so a tuple equals the list that it was stored as.
    """
    old, new = (flatten(json.loads(json.dumps(jsonable(side)))) if side else {} for side in (before, after))
    keys = sorted(old.keys() | new.keys())
    pairs = ((key, old.get(key, ABSENT), new.get(key, ABSENT)) for key in keys)
    return [(key, a, b) for key, a, b in pairs if a != b or isinstance(a, bool) != isinstance(b, bool)]
