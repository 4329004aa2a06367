"""Where arrays live: a mesh from the config, and rules that are data, matched on parameter paths.

Mesh axes: ``data`` splits the batch, ``fsdp`` splits the batch and the parameters, ``tensor`` splits the parameters
inside a layer. Plain jit reads the rest off the arrays.
"""

import dataclasses
import difflib
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from gempi_jax.training import manifest

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Rule:
    """How the dimensions of some parameters are split.

    Attributes:
      pattern: regular expression for the last components of a path, ``mlp/(gate|up)_proj/kernel``.
      axes: a mesh axis or ``None`` (not split) for each dimension. The rule speaks of arrays with that many dimensions
        only, so a bias, or a factored second moment, at the same path needs a rule of its own or follows the default.
    """

    pattern: str
    axes: tuple[str | None, ...]

    def matches(self, path: str, ndim: int) -> bool:
        """Whether the rule speaks of an array."""
        return len(self.axes) == ndim and re.search(rf"(?:^|/)(?:{self.pattern})$", path) is not None


@dataclasses.dataclass(frozen=True)
class Rules:
    """Rules, and a default for arrays that no rule speaks of.

    The default splits the largest dimension that ``fsdp`` divides. A rule's axis that does not divide its dimension is
    left out for that array, with a logged warning.

    Attributes:
      rules: two that contradict each other about an array are an error.
      default_minimum: the default leaves arrays with fewer elements whole on every device.
    """

    rules: tuple[Rule, ...] = ()
    default_minimum: int = 4096


DECODER = Rules(
    (
        Rule("embedding", ("tensor", "fsdp")),
        Rule("lm_head", ("fsdp", "tensor")),
        Rule("attention/(q|k|v)_proj/kernel", ("fsdp", "tensor")),
        Rule("attention/(q|k|v)_proj/bias", ("tensor",)),
        Rule("attention/o_proj/kernel", ("tensor", "fsdp")),
        Rule("mlp/(gate|up)_proj/kernel", ("fsdp", "tensor")),
        Rule("mlp/(gate|up)_proj/bias", ("tensor",)),
        Rule("mlp/down_proj/kernel", ("tensor", "fsdp")),
        Rule("(attention/(q|k|v)|mlp/(gate|up))_proj/a", ("fsdp", None)),
        Rule("(attention/(q|k|v)|mlp/(gate|up))_proj/b", (None, "tensor")),
        Rule("(attention/o|mlp/down)_proj/a", ("tensor", None)),
        Rule("(attention/o|mlp/down)_proj/b", (None, "fsdp")),
    )
)
"""Of the decoder: a block's wide dimension over ``tensor``, its other one over ``fsdp``; adapters as their kernels."""


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of the axes data, fsdp, tensor over the first devices.

    Args:
      sizes: devices along each axis; a missing axis is 1, and one may be -1: all devices that the others leave.
      devices: to choose from, by default all.

    Raises:
      ValueError: an unknown axis, an impossible size, or more devices than there are.
    """
    devices = jax.devices() if devices is None else list(devices)
    for name, size in sizes.items():
        if name not in AXES:
            near = difflib.get_close_matches(name, AXES, n=1)
            raise ValueError(f"mesh axis {name!r} is none of {AXES}" + (f": did you mean {near[0]!r}?" if near else ""))
        if size != -1 and size < 1:
            raise ValueError(f"mesh axis {name!r} has size {size}: give 1 or more, or -1 for all remaining devices")
    shape = [sizes.get(name, 1) for name in AXES]
    if shape.count(-1) > 1:
        raise ValueError(f"mesh {dict(sizes)}: only one axis may be -1")
    if -1 in shape:
        others = -math.prod(shape)
        if len(devices) % others:
            raise ValueError(f"mesh {dict(sizes)}: {len(devices)} devices are no multiple of the {others} of its axes")
        shape[shape.index(-1)] = len(devices) // others
    needed = math.prod(shape)
    if needed > len(devices):
        raise ValueError(
            f"mesh {dict(zip(AXES, shape, strict=True))} needs {needed} devices, there are {len(devices)} "
            f"({devices[0].platform}): lower the sizes to a product of at most {len(devices)}"
        )
    # Stated here once: jax.make_mesh would make axes Explicit, whose shardings are part of every type.
    return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:needed])


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis over ``data`` and ``fsdp``; the other axes whole."""
    axes = tuple(axis for axis in BATCH_AXES if mesh.shape[axis] > 1)
    return NamedSharding(mesh, PartitionSpec(axes) if axes else PartitionSpec())


def put_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Spreads arrays that share a leading batch axis over the devices.

    Raises:
      ValueError: the devices do not divide the batch.
    """
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    for path, leaf in manifest.leaf_paths(batch).items():
        if leaf.ndim == 0 or leaf.shape[0] % parts:
            raise ValueError(
                f"batch array {path or '(itself)'} has shape {list(leaf.shape)}, whose first axis the {parts} devices "
                f"along {BATCH_AXES} do not divide: make the batch a multiple of {parts}"
            )
    return jax.device_put(batch, batch_sharding(mesh))


def state_shardings(shapes: PyTree, mesh: Mesh, rules: Rules = DECODER) -> PyTree:
    """A sharding for every array of a state.

    Parameters, their optimiser's moments and their snapshots end in the same path, so the same rule places them.

    Args:
      shapes: arrays or ``jax.ShapeDtypeStruct``.
      mesh: of :func:`make_mesh`.
      rules: which dimension goes where.

    Raises:
      ValueError: two rules contradict each other about an array, or one names an unknown axis.
    """
    for rule in rules.rules:
        if unknown := [axis for axis in rule.axes if axis is not None and axis not in mesh.shape]:
            raise ValueError(f"sharding rule {rule.pattern!r} names the axis {unknown[0]!r}; the mesh has {AXES}")
    leaves = manifest.leaf_paths(shapes)
    shardings = [NamedSharding(mesh, _spec(path, leaf.shape, mesh, rules)) for path, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(shapes), shardings)


def init_sharded(init: Callable[..., Any], *args: Any, mesh: Mesh, rules: Rules = DECODER) -> PyTree:
    """Runs ``init(*args)`` so that every array is born in its shards: no device ever holds the whole state."""
    shardings = state_shardings(jax.eval_shape(init, *args), mesh, rules)
    return jax.jit(init, out_shardings=shardings)(*args)


def _spec(path: str, shape: tuple[int, ...], mesh: Mesh, rules: Rules) -> PartitionSpec:
    matching = [rule for rule in rules.rules if rule.matches(path, len(shape))]
    if any(rule.axes != matching[0].axes for rule in matching):
        listed = ", ".join(f"{rule.pattern!r} -> {rule.axes}" for rule in matching)
        raise ValueError(f"sharding rules contradict each other about {path} {list(shape)}: {listed}; narrow a pattern")
    axes = matching[0].axes if matching else _default(shape, mesh, rules.default_minimum)
    kept = []
    for size, axis in zip(shape, axes, strict=True):
        if axis is not None and size % mesh.shape[axis]:
            _logger.warning("%s: %r (%d) does not divide %d: not split", path, axis, mesh.shape[axis], size)
            axis = None
        # Without axes of one device, equal placements are equal specs: jit compares them.
        kept.append(None if axis is None or mesh.shape[axis] == 1 else axis)
    while kept and kept[-1] is None:
        kept.pop()
    return PartitionSpec(*kept)


def _default(shape: tuple[int, ...], mesh: Mesh, minimum: int) -> tuple[str | None, ...]:
    divisible = [dimension for dimension, size in enumerate(shape) if size and size % mesh.shape["fsdp"] == 0]
    if math.prod(shape) < minimum or not divisible:
        return (None,) * len(shape)
    largest = max(divisible, key=lambda dimension: shape[dimension])
    return tuple("fsdp" if dimension == largest else None for dimension in range(len(shape)))
