"""What a checkpoint says about itself: its leaves, its files, who wrote it; enough to judge it before reading it."""

import json
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import PyTree

from gempi_jax.training import jsonfiles

NAME = "manifest.json"


class CorruptCheckpoint(Exception):
    """A folder that is no whole checkpoint: half-written, truncated, or something else."""


class CheckpointMismatch(ValueError):
    """A whole checkpoint of another model or run."""


def leaf_paths(tree: PyTree) -> dict[str, Any]:
    """Leaves by path, such as ``params/policy/layers_0/attention/q_proj/kernel``, in the order of the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def describe(leaves: Mapping[str, Any]) -> dict[str, str]:
    """Dtype and shape by path: ``bfloat16[64, 128]``, ``key<fry>[]``."""
    return {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves.items()}


def write(folder: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Adds the sizes and checksums of the folder's files to the content and writes it beside them."""
    files = {str(file.relative_to(folder)): _fingerprint(file) for file in sorted(folder.rglob("*")) if file.is_file()}
    content = {**content, "files": files}
    data = json.dumps({"crc32": _checksum(content), "content": content}, allow_nan=False)
    jsonfiles.write_atomically(folder / NAME, data.encode())


def read(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest of a folder whose files are all as they were written.

    Raises:
      CorruptCheckpoint: naming the file at fault.
    """
    try:
        data = json.loads((folder / NAME).read_bytes())
        content, expected = data["content"], data["crc32"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CorruptCheckpoint(f"{NAME} is missing or unreadable ({error!r})") from error
    if _checksum(content) != expected:
        raise CorruptCheckpoint(f"{NAME} is not as it was written")
    for name, expected in content["files"].items():
        try:
            found = _fingerprint(folder / name)
        except OSError as error:
            raise CorruptCheckpoint(f"{name} is missing or unreadable ({error})") from error
        if found != expected:
            raise CorruptCheckpoint(f"{name} has (bytes, crc32) {found}, written were {expected}")
    return content


def check_same_run(folder: pathlib.Path, content: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> None:
    """Raises ``CheckpointMismatch`` with the first setting that differs."""
    changed = jsonfiles.differences(content["fingerprint"], fingerprint)
    if changed:
        key, there, here = changed[0]
        _mismatch(folder, key, repr(there), repr(here))


def check_same_structure(folder: pathlib.Path, content: Mapping[str, Any], leaves: Mapping[str, str]) -> None:
    """Raises ``CheckpointMismatch`` with the first leaf that differs in presence, shape or dtype."""
    there = content["leaves"]
    for path in [*leaves, *there]:
        if there.get(path) != leaves.get(path):
            _mismatch(folder, path, there.get(path, jsonfiles.ABSENT), leaves.get(path, jsonfiles.ABSENT))


def _mismatch(folder: pathlib.Path, path: str, there: str, here: str) -> None:
    raise CheckpointMismatch(
        f"checkpoint {folder} is of another model or run: {path} is {there} there and {here} in this run. "
        "Use the settings of the run that wrote it, or another workdir. The checkpoint was left as it is."
    )


def _checksum(content: Any) -> int:
    return zlib.crc32(json.dumps(content).encode())


def _fingerprint(file: pathlib.Path) -> list[int]:
    size, checksum = 0, 0
    with open(file, "rb") as stream:
        while chunk := stream.read(1 << 20):
            size += len(chunk)
            checksum = zlib.crc32(chunk, checksum)
    return [size, checksum]
