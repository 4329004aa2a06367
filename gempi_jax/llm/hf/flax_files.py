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
    and tables "embedding".
    """

    def __init__(self, path: pathlib.Path):
        """Opens ``path``.

        Raises:
          ValueError: truncated, corrupt, or not a tree of arrays.
        """
        self.path = path
        try:
            tree = flax.serialization.msgpack_restore(path.read_bytes())
            flat = flax.traverse_util.flatten_dict(tree)
            self._arrays = dict(_renamed(keys, array) for keys, array in flat.items())
        except Exception as error:  # msgpack and numpy raise a dozen kinds for bytes that make no sense
            reason = str(error) or type(error).__name__
            raise ValueError(f"{path} is truncated or corrupt: {reason}; download or export it again") from error
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


def _renamed(keys: tuple[str, ...], array: Any) -> tuple[str, np.ndarray]:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{'/'.join(keys)} is a {type(array).__name__}, no array")
    name = ".".join((*keys[:-1], _LEAVES.get(keys[-1], keys[-1])))
    return name, array.T if keys[-1] == "kernel" else array
