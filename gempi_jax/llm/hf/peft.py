"""Adapters in PEFT's format: ``adapter_config.json`` and ``adapter_model.safetensors``.

A module's update is (alpha / r) B A with ``lora_A.weight`` A [r, in] and ``lora_B.weight`` B [out, r]: our a and b
transposed.  Where a family keeps several projections in one module (GPT-2's c_attn, Phi-3's qkv_proj), theirs is one
adapter and ours are several.  Coming in, each of ours takes the common A and its own rows of B.  Going out, the ranks
lie side by side, [A_q; A_k; A_v] under a block-diagonal B: the same function, of a larger rank.
"""

import pathlib
import re
from typing import NamedTuple

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from gempi_jax.llm.hf.config import family_of, read_json, write_config
from gempi_jax.llm.hf.fields import Fields
from gempi_jax.llm.hf.pretrained import Pretrained
from gempi_jax.llm.hf.tensor_files import Plan, TensorFile, write_tensors
from gempi_jax.llm.hf.weights import param_shapes, write_json
from gempi_jax.models import LoRA
from gempi_jax.models.lora import PROJECTIONS
from gempi_jax.types import Params

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# What these say changes neither the adapter's function nor the base that it belongs to.
_HARMLESS = frozenset(
    """
    auto_mapping base_model_name_or_path ensure_weight_tying eva_config exclude_modules fan_in_fan_out inference_mode
    layers_pattern megatron_core peft_version qalora_group_size revision runtime_config target_modules
    """.split()  # noqa: SIM905 (a list of quoted words would be three times as long)
)


class Module(NamedTuple):
    """A linear module of a checkpoint and those of our projections that it holds, side by side in its outputs.

    Attributes:
      suffix: its name inside a layer, ``self_attn.q_proj``.
      paths: of our projections, ``layers_0/attention/q_proj``.
      sizes: outputs of each.
      transposed: the checkpoint keeps its weight as [out, in].
    """

    suffix: str
    paths: tuple[str, ...]
    sizes: tuple[int, ...]
    transposed: bool


def load_adapters(path: str | pathlib.Path, pretrained: Pretrained) -> tuple[LoRA, Params]:
    """Adapters of a PEFT folder for a model.

    Args:
      path: the folder.
      pretrained: the model that they adapt.

    Returns:
      How they count, and the adapters in float32, for :class:`gempi_jax.models.Adapted`.  alpha / sqrt(r)
      (``use_rslora``) becomes the alpha of the same scale.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a setting that is not understood, or a tensor that is missing, left over or of another shape.
    """
    folder = pathlib.Path(path).expanduser()
    rank, alpha, dropout = _read_config(folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder / WEIGHTS} is missing; save the adapter with safe_serialization=True")
    file = TensorFile(folder / WEIGHTS)
    modules = _modules(pretrained)
    halves: dict[str, dict[str, np.ndarray]] = {}
    for name in file.entries:
        match = re.fullmatch(re.escape(_PREFIX) + r"(.+)\.lora_(A|B)\.weight", name)
        if match is None or match[1] not in modules:
            raise ValueError(f"{file.path}: tensor {name!r} adapts nothing that this model has; is it another model's?")
        halves.setdefault(match[1], {})[match[2]] = np.asarray(file.view(name), np.float32)
    shapes = param_shapes(pretrained.model.config)
    adapters: dict[str, np.ndarray] = {}
    for name, module in modules.items():
        if not any(modules[other].suffix == module.suffix for other in halves):
            continue
        inputs = shapes[f"{module.paths[0]}/kernel"][0]
        for half, shape in (("A", (rank, inputs)), ("B", (sum(module.sizes), rank))):
            found = halves.get(name, {}).get(half)
            if found is None or found.shape != shape:
                stated = "is missing" if found is None else f"has shape {list(found.shape)}"
                raise ValueError(
                    f"{file.path}: tensor '{_PREFIX}{name}.lora_{half}.weight' {stated}; the model and r = {rank} ask "
                    f"for {list(shape)}"
                )
        rows = np.split(halves[name]["B"], np.cumsum(module.sizes)[:-1])
        for ours, own in zip(module.paths, rows, strict=True):
            adapters |= {f"{ours}/a": halves[name]["A"].T, f"{ours}/b": own.T}
    if not adapters:
        raise ValueError(f"{file.path} holds no tensors")
    targets = {ours.split("/")[-2] for ours in adapters}
    lora = LoRA(rank, alpha, tuple(name for name in PROJECTIONS if name in targets), dropout)
    return lora, flax.traverse_util.unflatten_dict({k: jnp.asarray(v) for k, v in adapters.items()}, sep="/")


def save_adapters(
    path: str | pathlib.Path, adapters: Params, lora: LoRA, pretrained: Pretrained, *, base: str = ""
) -> None:
    """Writes a folder that ``peft.PeftModel.from_pretrained`` opens.

    Args:
      path: the folder; made if it does not exist.
      adapters: of ``pretrained``.
      lora: how they count.
      pretrained: the model that they adapt.
      base: its folder or hub name, for PEFT to find it.
    """
    folder = pathlib.Path(path).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    flat = {path: np.asarray(leaf) for path, leaf in flax.traverse_util.flatten_dict(adapters, sep="/").items()}
    adapted = {
        name: module for name, module in _modules(pretrained).items() if any(f"{p}/a" in flat for p in module.paths)
    }
    # One rank for all modules: that of the module with most of our adapters; others are filled up with zeros.
    parts = max(sum(f"{path}/a" in flat for path in module.paths) for module in adapted.values())
    rank = parts * lora.rank
    tensors = {}
    for name, module in adapted.items():
        first, second = _joined(module, flat, rank)
        tensors |= {f"{_PREFIX}{name}.lora_A.weight": first, f"{_PREFIX}{name}.lora_B.weight": second}
    plans = {name: Plan(tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    write_tensors(folder / WEIGHTS, plans, iter(tensors.items()))
    alpha = lora.alpha * parts
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base or None,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": lora.dropout,
        "target_modules": sorted({module.suffix for module in adapted.values()}),
        "fan_in_fan_out": not any(module.transposed for module in adapted.values()),
        "use_rslora": False,
        "bias": "none",
        "inference_mode": True,
    }
    write_json(folder / CONFIG, values)


def _read_config(path: pathlib.Path) -> tuple[int, float, float]:
    """(r, the alpha whose alpha / r is the scale, dropout)."""
    fields = Fields(read_json(path), str(path))
    fields.only("peft_type", "LORA")
    fields.only("task_type", "CAUSAL_LM")
    fields.only("bias", "none")
    fields.only("modules_to_save", [])
    for name in ("use_dora", "use_qalora", "lora_bias"):
        fields.only(name, False)
    for name in ("rank_pattern", "alpha_pattern", "loftq_config"):
        fields.only(name, {})
    # Others (pissa, olora, loftq, ...) change the base, too: the adapter would be added to the wrong weights.
    fields.only("init_lora_weights", True, False, "gaussian", "orthogonal", "eva")
    rank, alpha, dropout = fields.size("r"), fields.number("lora_alpha"), fields.number("lora_dropout", 0.0)
    if fields.flag("use_rslora", False):
        alpha *= rank**0.5
    fields.finish(_HARMLESS)
    return rank, alpha, dropout


def _modules(pretrained: Pretrained) -> dict[str, Module]:
    """What can be adapted in a model, by its full name in the checkpoint."""
    config = pretrained.model.config
    values = write_config(config) if pretrained.config is None else pretrained.config.model
    shapes = param_shapes(config)
    modules = {}
    for tensor in family_of(values).tensors:
        names = [path.split("/") for path in tensor.paths]
        if not all(name[-1] == "kernel" and name[-2] in PROJECTIONS for name in names):
            continue
        for layer in range(config.num_layers):
            paths = tuple(path.format(layer).removesuffix("/kernel") for path in tensor.paths)
            name = tensor.name.removesuffix(".weight")
            sizes = tuple(shapes[f"{path}/kernel"][1] for path in paths if f"{path}/kernel" in shapes)
            if len(sizes) == len(paths):
                modules[name.format(layer)] = Module(name.split("{}.")[1], paths, sizes, tensor.transposed)
    return modules


def _joined(module: Module, flat: dict[str, np.ndarray], rank: int) -> tuple[np.ndarray, np.ndarray]:
    """A [rank, in] and B [out, rank] of a module: our adapters side by side, then zeros."""
    ends = np.cumsum(module.sizes).tolist()
    rows = {path: slice(end - size, end) for path, size, end in zip(module.paths, module.sizes, ends, strict=True)}
    ours = [path for path in module.paths if f"{path}/a" in flat]
    inputs, width = flat[f"{ours[0]}/a"].shape
    first, second = np.zeros((rank, inputs), np.float32), np.zeros((ends[-1], rank), np.float32)
    for number, path in enumerate(ours):
        columns = slice(number * width, (number + 1) * width)
        first[columns] = flat[f"{path}/a"].T
        second[rows[path], columns] = flat[f"{path}/b"].T
    return first, second
