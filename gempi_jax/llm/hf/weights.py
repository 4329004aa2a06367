"""A checkpoint's tensors <-> our parameters, every one of them accounted for by name and shape."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from gempi_jax.llm.hf.checkpoint_files import INDEX, SINGLE, Tensors, open_tensors
from gempi_jax.llm.hf.family import Family
from gempi_jax.llm.hf.tensor_files import Plan, TensorFile, write_tensors
from gempi_jax.models import Decoder, DecoderConfig
from gempi_jax.types import Params

Placing = Callable[[str, tuple[int, ...]], jax.sharding.Sharding]
"""From a parameter's path (``"layers_0/mlp/up_proj/kernel"``) and shape to where it shall lie."""


_FIRST = "layers_0/"


class Part(NamedTuple):
    """One of our parameters inside a tensor of the checkpoint: columns ``start`` and on of our last axis."""

    tensor: str
    start: int
    transposed: bool


class Wanted(NamedTuple):
    """What a checkpoint of one model must hold.

    Attributes:
      shapes: of each tensor, by its name in the checkpoint.
      parts: where each of our parameters is found, by path.
      params: shape of each of our parameters, by path.
    """

    shapes: dict[str, tuple[int, ...]]
    parts: dict[str, Part]
    params: dict[str, tuple[int, ...]]


def param_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter by path, without making any."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    # Layers have parameters alike, so one is traced: a config.json may claim thousands.
    single = dataclasses.replace(config, num_layers=1, bands=config.bands[:1])
    tree = jax.eval_shape(Decoder(single).init, jax.random.key(0), tokens)["params"]
    shapes = {path: leaf.shape for path, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items()}
    layers = {path.removeprefix(_FIRST): shape for path, shape in shapes.items() if path.startswith(_FIRST)}
    others = {path: shape for path, shape in shapes.items() if not path.startswith(_FIRST)}
    return others | {f"layers_{i}/{path}": shape for i in range(config.num_layers) for path, shape in layers.items()}


def wanted(family: Family, config: DecoderConfig) -> Wanted:
    """Matches a family's tensor names with the parameters of one decoder.

    Raises:
      ValueError: the family has no tensor for a parameter that this decoder has.
    """
    params = param_shapes(config)
    shapes, parts = {}, {}
    for tensor in family.tensors:
        for layer in range(config.num_layers) if "{}" in tensor.name else (0,):
            paths = [path.format(layer) for path in tensor.paths]
            if not all(path in params for path in paths):
                continue
            name, start = tensor.name.format(layer), 0
            for path in paths:
                parts[path] = Part(name, start, tensor.transposed)
                start += params[path][-1]
            shape = (*params[paths[0]][:-1], start)
            shapes[name] = shape[::-1] if tensor.transposed else shape
    left = sorted(set(params) - set(parts))
    if left:
        raise ValueError(f"{family.architecture} has no tensor for the parameters {_few(left)}")
    return Wanted(shapes, parts, params)


def _few(names: Iterable[str], count: int = 6) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:count])) + (f" and {len(names) - count} more" if len(names) > count else "")


def _match(files: Tensors, family: Family, want: Wanted, place: str) -> dict[str, np.ndarray]:
    """Views of exactly the wanted tensors, by the family's names.

    Raises:
      ValueError: a tensor is missing, left over, or has another shape.
    """
    found = {}
    for name, file in files.items():
        if any(re.search(pattern, name) for pattern in family.buffers):
            continue
        full = name if name in want.shapes or name.startswith(("lm_head", family.base)) else family.base + name
        found[full] = (file, name)
    missing = [name for name in want.shapes if name not in found]
    if missing:
        raise ValueError(f"{place}: tensor {_few(missing)} is missing; the files do not belong to this config.json")
    tied = "lm_head.weight" in found and "lm_head.weight" not in want.shapes
    extra = [name for name in found if name not in want.shapes and not (tied and name == "lm_head.weight")]
    if extra:
        raise ValueError(f"{place}: unknown tensor {_few(extra)}; the files do not belong to this config.json")
    views = {}
    for name, shape in want.shapes.items():
        file, stored = found[name]
        if file.entries[stored].shape != shape:
            raise ValueError(
                f"{file.path}: tensor {stored!r} has shape {list(file.entries[stored].shape)}, config.json asks for "
                f"{list(shape)}; the files do not belong to this config.json"
            )
        views[name] = file.view(stored)
    if tied:
        file, stored = found["lm_head.weight"]
        embedding = views[want.parts["embedding"].tensor]
        # Flax's Llama keeps (and trains, and uses) a head of its own even where config.json ties it: not the model that
        # config.json describes, so it is left out.
        if isinstance(file, TensorFile) and not np.array_equal(file.view(stored), embedding):
            raise ValueError(
                f"{file.path}: config.json ties the head to the embedding, but {stored!r} differs from it; set "
                '"tie_word_embeddings": false, or remove the tensor'
            )
    return views


def _cut(view: np.ndarray, part: Part, shape: tuple[int, ...], index: tuple[slice, ...]) -> np.ndarray:
    """The piece ``index`` of one of our parameters out of a checkpoint's tensor."""
    start, stop, _ = index[-1].indices(shape[-1])
    index = (*index[:-1], slice(part.start + start, part.start + stop))
    return view[index[::-1]].T if part.transposed else view[index]


def load_weights(
    folder: pathlib.Path, family: Family, config: DecoderConfig, dtype: Any = None, placing: Placing | None = None
) -> Params:
    """The parameters of a checkpoint folder.

    Args:
      folder: with safetensors files.
      family: whose names they have.
      config: the decoder.
      dtype: of the parameters; ``None`` keeps each tensor's.
      placing: where each parameter shall lie; each device's piece is read by itself, so the host never holds more than
        the largest piece.  ``None`` for the default device.

    Returns:
      The ``params`` of :class:`gempi_jax.models.Decoder`.
    """
    want = wanted(family, config)
    views = _match(open_tensors(folder, family.buffers), family, want, str(folder))

    def load(path: str) -> jax.Array:
        part, shape = want.parts[path], want.params[path]
        view = views[part.tensor]
        kept = jnp.dtype(dtype or view.dtype)

        def piece(index):
            # A copy: an array must not change, or vanish, with the file that it came from.
            return np.array(_cut(view, part, shape, index), dtype=kept, order="C")

        if placing is None:
            return jnp.asarray(piece((slice(None),) * len(shape)))
        return jax.make_array_from_callback(shape, placing(path, shape), piece)

    return flax.traverse_util.unflatten_dict({path: load(path) for path in want.params}, sep="/")


def save_weights(
    folder: pathlib.Path, family: Family, config: DecoderConfig, params: Params, max_shard_bytes: int
) -> None:
    """Writes the parameters as safetensors: one file, or shards of at most ``max_shard_bytes`` with an index.

    Raises:
      ValueError: ``params`` are not those of ``config``.
    """
    want = wanted(family, config)
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    shapes = {path: tuple(leaf.shape) for path, leaf in flat.items()}
    if shapes != want.params:
        odd = sorted(path for path in shapes | want.params if shapes.get(path) != want.params.get(path))
        raise ValueError(
            f"the parameters do not belong to the model: {odd[0]!r} is {shapes.get(odd[0])}, the model has "
            f"{want.params.get(odd[0])}"
        )
    paths: dict[str, list[str]] = {}
    for path, part in want.parts.items():
        paths.setdefault(part.tensor, []).append(path)

    def array(name):
        pieces = [np.asarray(flat[path]) for path in paths[name]]
        joined = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=-1)
        return joined.T if want.parts[paths[name][0]].transposed else joined

    plans = {name: Plan(np.dtype(flat[paths[name][0]].dtype), shape) for name, shape in want.shapes.items()}
    _write_shards(folder, plans, array, max_shard_bytes)


def _write_shards(folder, plans: dict[str, Plan], array: Callable[[str], np.ndarray], max_shard_bytes: int) -> None:
    groups: list[dict[str, Plan]] = [{}]
    size = total = 0
    for name, plan in plans.items():
        length = plan.dtype.itemsize * int(np.prod(plan.shape))
        if groups[-1] and size + length > max_shard_bytes:
            groups.append({})
            size = 0
        groups[-1][name] = plan
        size, total = size + length, total + length
    names = [SINGLE]
    if len(groups) > 1:
        names = [f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors" for i in range(len(groups))]
    for name, group in zip(names, groups, strict=True):
        write_tensors(folder / name, group, ((tensor, array(tensor)) for tensor in group))
    if len(groups) > 1:
        weight_map = {tensor: name for name, group in zip(names, groups, strict=True) for tensor in group}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    _remove_others(folder, {*names, INDEX} if len(groups) > 1 else {SINGLE})


def _remove_others(folder: pathlib.Path, kept: set[str]) -> None:
    """Removes weights of an earlier export into the same folder, which readers would take for these."""
    for path in [*folder.glob("model*.safetensors"), folder / INDEX]:
        if path.name not in kept:
            path.unlink(missing_ok=True)


def write_json(path: pathlib.Path, values: dict[str, Any]) -> None:
    """Writes a JSON file that appears only when it is complete."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)
