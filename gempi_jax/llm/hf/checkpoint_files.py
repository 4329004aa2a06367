"""Which file of a checkpoint folder holds each tensor: one safetensors file, several with an index, or Flax's."""

import pathlib
import re
from collections.abc import Callable, Sequence

from gempi_jax.llm.hf.config import read_json
from gempi_jax.llm.hf.flax_files import FlaxFile, torch_name
from gempi_jax.llm.hf.tensor_files import TensorFile

SINGLE, FLAX = "model.safetensors", "flax_model.msgpack"
INDEX, FLAX_INDEX = f"{SINGLE}.index.json", f"{FLAX}.index.json"

Tensors = dict[str, TensorFile | FlaxFile]
"""From a tensor's name to the file that holds it."""


def open_tensors(folder: pathlib.Path, buffers: Sequence[str] = ()) -> Tensors:
    """The file of every tensor of a checkpoint folder, safetensors before Flax's.

    Args:
      folder: of the checkpoint.
      buffers: patterns of names that hold no parameters: an index may list them and the shards lack them.

    Raises:
      FileNotFoundError: no weights, or a shard that the index names is missing.
      ValueError: a corrupt file or index, or two sets of weights side by side.
    """
    for opened in (open_safetensors, open_flax_files):
        tensors = opened(folder, buffers)
        if tensors is not None:
            return tensors
    pickles = sorted(path.name for path in folder.glob("*.bin")) + sorted(path.name for path in folder.glob("*.pt*"))
    if pickles:
        raise FileNotFoundError(
            f"{folder} holds its weights only as {pickles[0]}, a pickle, which can run code and is never opened; "
            "convert it where you trust it: AutoModelForCausalLM.from_pretrained(...).save_pretrained(..., "
            "safe_serialization=True)"
        )
    raise FileNotFoundError(f"{folder} holds no weights: none of {SINGLE}, {INDEX}, {FLAX} and {FLAX_INDEX} is there")


def open_safetensors(folder: pathlib.Path, buffers: Sequence[str] = ()) -> Tensors | None:
    """The safetensors files, or ``None`` where there are none; see :func:`open_tensors`."""
    return _open(folder, INDEX, SINGLE, TensorFile, buffers)


def open_flax_files(folder: pathlib.Path, buffers: Sequence[str] = ()) -> Tensors | None:
    """Flax's files, or ``None`` where there are none; see :func:`open_tensors`."""
    return _open(folder, FLAX_INDEX, FLAX, FlaxFile, buffers)


_Kind = Callable[[pathlib.Path], TensorFile | FlaxFile]


def _open(folder: pathlib.Path, index: str, single: str, kind: _Kind, buffers: Sequence[str]) -> Tensors | None:
    if (folder / index).is_file():
        return _open_shards(folder, index, single, kind, buffers)
    if (folder / single).is_file():
        file = kind(folder / single)
        return dict.fromkeys(file.entries, file)
    return None


def _open_shards(folder: pathlib.Path, index: str, single: str, kind: _Kind, buffers: Sequence[str]) -> Tensors:
    weight_map = read_json(folder / index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ValueError(f"{folder / index} has no weight_map from tensor to file; download or export it again")
    names = sorted(set(weight_map.values()))
    if (folder / single).is_file() and single not in names:
        raise ValueError(
            f"{folder} holds two sets of weights: {single}, and the {len(names)} that {index} names, {names[0]} first; "
            f"remove {single}, or {index} and its files (one of the two is an earlier model's)"
        )
    for name in names:
        _check_shard(folder, index, name)
    shards = {name: kind(folder / name) for name in names}
    tensors = {}
    for named, name in weight_map.items():
        file = shards[name]
        tensor = torch_name(named) if isinstance(file, FlaxFile) else named
        if tensor not in file.entries:
            if any(re.search(pattern, tensor) for pattern in buffers):
                continue
            raise ValueError(f"{folder / index} places tensor {named!r} in {name}, which does not hold it")
        tensors[tensor] = file
    return tensors


def _check_shard(folder: pathlib.Path, index: str, name: str) -> None:
    if pathlib.PurePath(name).name != name:
        raise ValueError(
            f"{folder / index} names the shard {name!r}, which lies outside the folder; that is not followed"
        )
    if not (folder / name).is_file():
        raise FileNotFoundError(f"{folder / index} names the shard {name}, which is missing; download it into {folder}")
