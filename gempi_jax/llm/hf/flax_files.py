"""Flax's ``flax_model.msgpack``, presented under the names and in the layout that PyTorch's classes use."""

import pathlib
from typing import Any, NamedTuple

import flax.serialization
import flax.traverse_util
import numpy as np

from gempi_jax.llm.hf.tensor_files import DTYPES

_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight"}


class Shape(NamedTuple):
    """What there is to know about a tensor before it is read."""

    shape: tuple[int, ...]


class FlaxFile:
    """A msgpack file of arrays; it is read whole, since the format has no index.

    The Flax classes transpose every kernel of their PyTorch twins, GPT-2's included, and call norms' weights "scale"
    and tables "embedding".  A shard of several is flat, its keys the leaves' paths.

    Attributes:
      path: of the file.
      leaves: arrays as they are, by path in the tree.
      entries: shapes under the names and in the layout of PyTorch's classes.
    """

    def __init__(self, path: pathlib.Path):
        """Opens ``path``.

        Raises:
          ValueError: truncated, corrupt, or not a tree of arrays.
        """
        self.path = path
        try:
            tree = flax.serialization.msgpack_restore(path.read_bytes())
            self.leaves = {"/".join(keys): _array(keys, x) for keys, x in flax.traverse_util.flatten_dict(tree).items()}
        except Exception as error:  # msgpack and numpy raise a dozen kinds for bytes that make no sense
            reason = str(error) or type(error).__name__
            raise ValueError(f"{path} is truncated or corrupt: {reason}; download or export it again") from error
        self._arrays = {
            torch_name(leaf): array.T if leaf.endswith("/kernel") else array for leaf, array in self.leaves.items()
        }
        self.entries = {name: Shape(array.shape) for name, array in self._arrays.items()}

    def view(self, name: str) -> np.ndarray:
        """A tensor, in PyTorch's layout.

        Raises:
          ValueError: its type is not one of float32, bfloat16 and float16.
        """
        array = self._arrays[name]
        if array.dtype not in DTYPES.values():
            raise ValueError(f"{self.path}: tensor {name!r} has type {array.dtype}; supported are {', '.join(DTYPES)}")
        return array


def torch_name(leaf: str) -> str:
    """What PyTorch's classes call a leaf, given by its path in Flax's tree."""
    *path, last = leaf.split("/")
    return ".".join((*path, _LEAVES.get(last, last)))


def _array(keys: tuple[str, ...], array: Any) -> np.ndarray:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{'/'.join(keys)} is a {type(array).__name__}, no array")
    return array
