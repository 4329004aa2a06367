"""Checkpoints that are whole or absent: whatever kills the writer, the previous good one is found again.

A checkpoint is the folder ``step_<global step>`` with the arrays (orbax), and a manifest with everything else. It is
written beside its place and renamed into it when it is complete, so a name that exists is a whole checkpoint, unless
the disk lied; sizes and checksums tell that.
"""

import logging
import os
import pathlib
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding
from jaxtyping import PyTree

from gempi_jax.training import jsonfiles, manifest
from gempi_jax.types import Array

_STEP = re.compile(r"step_(\d+)")
_ARRAYS = "arrays"
_UNFINISHED = ".unfinished-"
_logger = logging.getLogger(__name__)


class Restored(NamedTuple):
    """What a checkpoint held.

    Attributes:
      state: with the structure of the template, each leaf in the template's sharding.
      host: the JSON data saved with it.
      step: global step.
    """

    state: PyTree
    host: dict[str, Any]
    step: int


class Pending:
    """A state that can be written now, or later from another thread, as long as its buffers live.

    Attributes:
      step: global step.
    """

    def __init__(self, step: int, arrays: Mapping[str, Array], write: Callable[[], None]):
        self.step = step
        self._arrays = arrays
        self._write = write

    def alive(self) -> bool:
        """Whether no buffer was donated since."""
        return not any(array.is_deleted() for array in self._arrays.values())

    def save(self) -> None:
        """Writes the checkpoint; does nothing when that was done.

        Raises:
          RuntimeError: a buffer was donated; what was written until then is no checkpoint and is cleaned up later.
        """
        self._write()


class Checkpointer:
    """The checkpoints of one run.

    Args:
      directory: their folder, made by the first save.
      keep: how many of the latest to keep, at least 1.
      fingerprint: settings that must be equal for a state to mean the same, nested, as JSON.
    """

    def __init__(self, directory: str | os.PathLike[str], *, keep: int, fingerprint: Mapping[str, Any]):
        if keep < 1:
            raise ValueError(f"keep = {keep}: keep at least 1 checkpoint")
        self._directory = pathlib.Path(directory).absolute()
        self._keep = keep
        self._fingerprint = jsonfiles.jsonable(fingerprint)
        self._written: set[int] = set()
        self._passed_over: set[int] = set()
        self._lock = threading.Lock()

    def steps(self) -> list[int]:
        """Global steps of the checkpoints that are there, whole or not, ascending."""
        names = (path.name for path in self._directory.iterdir()) if self._directory.is_dir() else ()
        return sorted(int(match[1]) for name in names if (match := _STEP.fullmatch(name)))

    def save(self, step: int, state: PyTree, host: Mapping[str, Any]) -> None:
        """Writes the checkpoint of a global step and removes those beyond the latest ``keep``.

        Args:
          step: over all phases of the run.
          state: a pytree of jax arrays, typed keys included.
          host: what the state needs beside arrays: JSON data.
        """
        self.prepare(step, state, host).save()

    def prepare(self, step: int, state: PyTree, host: Mapping[str, Any]) -> Pending:
        """A save to be made later, perhaps by another thread; reads ``host`` now and the arrays then.

        Raises:
          TypeError: a leaf is no jax array, or ``host`` is no JSON data; named by its path.
        """
        leaves = manifest.leaf_paths(state)
        for path, leaf in leaves.items():
            if not isinstance(leaf, jax.Array):
                raise TypeError(f"{path} is {leaf!r}, no jax array: put it into host, or make it an array")
        content = {
            "step": step,
            "fingerprint": self._fingerprint,
            "leaves": manifest.describe(leaves),
            "keys": {path: str(jax.random.key_impl(leaf)) for path, leaf in leaves.items() if _is_key(leaf)},
            "host": jsonfiles.jsonable(host, "host"),
        }
        # Keys are unwrapped here and not in save(): a device that is busy then would not come to it.
        arrays = {path: jax.random.key_data(leaf) if _is_key(leaf) else leaf for path, leaf in leaves.items()}
        return Pending(step, arrays, lambda: self._write(step, arrays, content))

    def restore_latest(self, template: PyTree | Callable[[dict[str, Any]], PyTree]) -> Restored | None:
        """Reads the latest whole checkpoint straight into the template's shards, on whatever mesh those are.

        Args:
          template: a tree of arrays or of ``jax.ShapeDtypeStruct`` with shardings (without: the first device); or a
            function that makes it from the checkpoint's host data, for runs whose phases differ in structure.

        Returns:
          ``None`` when there is none. One that is not whole is passed over with a warning.

        Raises:
          CheckpointMismatch: the latest whole one is of another model or run.
        """
        for step in reversed(self.steps()):
            folder = self._folder(step)
            try:
                content = manifest.read(folder)
            except manifest.CorruptCheckpoint as error:
                _logger.warning("checkpoint %s is passed over: %s", folder, error)
                self._passed_over.add(step)
                continue
            manifest.check_same_run(folder, content, self._fingerprint)
            wanted = template(content["host"]) if callable(template) else template
            manifest.check_same_structure(folder, content, manifest.describe(manifest.leaf_paths(wanted)))
            state = _read_arrays(folder / _ARRAYS, wanted, content["keys"])
            self._written.add(step)
            return Restored(state, content["host"], step)
        return None

    def _folder(self, step: int) -> pathlib.Path:
        return self._directory / f"step_{step:09d}"

    def _write(self, step: int, arrays: Mapping[str, Array], content: Mapping[str, Any]) -> None:
        with self._lock:
            if step in self._written:
                return
            self._directory.mkdir(parents=True, exist_ok=True)
            for leftover in self._directory.glob(f"{_UNFINISHED}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            unfinished = self._directory / f"{_UNFINISHED}{step}-{time.time_ns()}"
            unfinished.mkdir()
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
                # orbax refuses arrays without elements; their shape in the manifest says all about them.
                stored = {path: array for path, array in arrays.items() if array.size}
                orbax.save(unfinished / _ARRAYS, args=ocp.args.PyTreeSave(stored))
            manifest.write(unfinished, content)
            self._remove(step)  # a corrupt one that was passed over
            os.rename(unfinished, self._folder(step))
            self._written.add(step)
            self._passed_over.discard(step)
            # Later ones can only be corrupt, or the run would have resumed from them; they must not displace good ones.
            good = [other for other in self.steps() if other <= step and other not in self._passed_over]
            for old in good[: -self._keep]:
                self._remove(old)

    def _remove(self, step: int) -> None:
        """Renames before deleting: a half-deleted checkpoint never carries a checkpoint's name."""
        if self._folder(step).exists():
            doomed = self._directory / f"{_UNFINISHED}removed-{step}-{time.time_ns()}"
            os.rename(self._folder(step), doomed)
            shutil.rmtree(doomed)


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _read_arrays(folder: pathlib.Path, template: PyTree, key_impls: Mapping[str, str]) -> PyTree:
    leaves = manifest.leaf_paths(template)
    shardings = {path: leaf.sharding or SingleDeviceSharding(jax.devices()[0]) for path, leaf in leaves.items()}
    shapes = {
        path: jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf for path, leaf in leaves.items()
    }
    wanted = {
        path: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=shardings[path])
        for path, shape in shapes.items()
        if shape.size
    }
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
        how = ocp.checkpoint_utils.construct_restore_args(wanted)
        arrays = orbax.restore(folder, args=ocp.args.PyTreeRestore(item=wanted, restore_args=how))

    def leaf(path: str) -> Array:
        if path not in arrays:
            return jnp.zeros(shapes[path].shape, shapes[path].dtype, device=shardings[path])
        if path in key_impls:
            return jax.device_put(jax.random.wrap_key_data(arrays[path], impl=key_impls[path]), shardings[path])
        return arrays[path]

    return jax.tree.unflatten(jax.tree.structure(template), [leaf(path) for path in leaves])
