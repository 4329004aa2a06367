"""Opens models of transformers' Flax classes from files that hold no code, with every tensor accounted for."""

import functools
import pathlib
import re
from collections.abc import Callable
from typing import Any

import flax.core
import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from gempi_jax.llm.hf.checkpoint_files import (
    FLAX,
    FLAX_INDEX,
    INDEX,
    SINGLE,
    Tensors,
    open_flax_files,
    open_safetensors,
)
from gempi_jax.llm.hf.config import read_json
from gempi_jax.llm.hf.fields import LARGEST, MOST_LAYERS, Fields
from gempi_jax.types import Params

_UNUSED = r"(attn|attention)\.(masked_)?bias$|rotary_emb\.|inv_freq$|position_ids$|embed_positions\.weights$|\.pooler\."
"""Tensors that files of older PyTorch classes hold and a Flax class may do without: buffers, and an unused layer."""


def open_flax(opener: str, path: str | pathlib.Path, *, dtype: Any = jnp.float32) -> tuple[Any, Params]:
    """A transformers model by one of its Flax auto classes, apart from its parameters; no code of the folder is run.

    Args:
      opener: the auto class, by name, since transformers 5 has none.
      path: a folder here.
      dtype: of the activations.

    Raises:
      ImportError: the installed transformers has no Flax classes.
      FileNotFoundError: no such folder, no weights in it, or a shard that its index names is missing.
      ValueError: corrupt files, a tensor that is missing, left over or of another shape, a config.json that asks for
        code of the folder's own, or absurd sizes.
    """
    import transformers

    if not hasattr(transformers, opener):
        raise ImportError(
            f"transformers {transformers.__version__} has no Flax classes (5.0 removed them); install 4.57, or use "
            "load_pretrained for the families that it covers"
        )
    folder = pathlib.Path(path).expanduser()
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json; give a model folder")
    _check_config(folder / "config.json")
    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), **_STRICT)
        make = functools.partial(getattr(transformers, opener).from_config, config, dtype=dtype)
        model = make(_do_init=False)
    except Exception as error:  # of a dozen kinds, for classes and files that do not go together
        raise ValueError(f"{folder}: {opener} cannot open it: {error}") from error
    needed = _flat(model.params_shape_tree)
    files = open_flax_files(folder, (_UNUSED,))
    if files is not None:
        found = _flax_leaves(files, model.base_model_prefix, needed)
    else:
        files = open_safetensors(folder, (_UNUSED,))
        if files is None:
            listing = f"{FLAX}, {FLAX_INDEX}, {SINGLE} and {INDEX}"
            raise FileNotFoundError(f"{folder} holds no weights: none of {listing} is there")
        try:
            found = _torch_tensors(files, make)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}; the files do not belong to this config.json") from error
    _account(found, needed, model, folder)
    return model, flax.traverse_util.unflatten_dict({path: jnp.asarray(found[path]) for path in needed}, sep="/")


_STRICT = {"trust_remote_code": False, "local_files_only": True}


def _flat(tree: Any) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(flax.core.unfreeze(tree), sep="/")


def _flax_leaves(files: Tensors, prefix: str, needed: dict[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by path; of a body without its head, below the name that the whole model gives the body."""
    leaves = {path: array for file in set(files.values()) for path, array in file.leaves.items()}
    inside = f"{prefix}/"
    whole = any(path.startswith(inside) for path in leaves) or not any(path.startswith(inside) for path in needed)
    return leaves if whole else {inside + path: array for path, array in leaves.items()}


def _torch_tensors(files: Tensors, make: Callable[[], Any]) -> dict[str, Any]:
    """Arrays by path, of PyTorch's names and layout, which the classes translate but cannot read unaided."""
    from transformers.modeling_flax_pytorch_utils import convert_pytorch_state_dict_to_flax

    # Copies: an array must not change, or vanish, with the file that it came from.  Integers are buffers.
    tensors = {name: np.array(file.view(name)) for name, file in files.items() if file.entries[name].floating}
    # Names are translated by looking at parameters, so some have to be made; the model that is kept has none.
    return _flat(convert_pytorch_state_dict_to_flax(tensors, make()))


def _account(found: dict[str, Any], needed: dict[str, Any], model: Any, folder: pathlib.Path) -> None:
    """Raises a ValueError unless what was found is what is needed, by path and shape."""
    other = f"the files are another kind of model's than {type(model).__name__}"
    missing = sorted(needed.keys() - found.keys())
    if missing:
        raise ValueError(f"{folder}: parameter {missing[0]!r} (of {len(missing)}) is missing; {other}")
    for path, array in needed.items():
        if found[path].shape != array.shape:
            raise ValueError(
                f"{folder}: parameter {path!r} has shape {list(found[path].shape)}, config.json asks for "
                f"{list(array.shape)}; the files do not belong to this config.json"
            )
    for path in sorted(found.keys() - needed.keys()):
        if not (re.search(_UNUSED, path.replace("/", ".")) or _tied_head(path, found, model)):
            raise ValueError(f"{folder}: unknown tensor {path.replace('/', '.')!r}; {other}")


def _tied_head(path: str, found: dict[str, Any], model: Any) -> bool:
    """Whether a tensor is the embedding once more, which files of tied models may hold as their head."""
    if path.split("/")[0] != "lm_head" or not getattr(model.config, "tie_word_embeddings", False):
        return False
    return any(
        name.endswith("/embedding") and array.shape == found[path].T.shape and np.array_equal(array, found[path].T)
        for name, array in found.items()
    )


def _check_config(path: pathlib.Path) -> None:
    values = read_json(path)
    fields = Fields(values, str(path))
    fields.refuse_code(())
    for name, value in values.items():
        if isinstance(value, int):
            largest = MOST_LAYERS if name.endswith(("layers", "n_layer")) else LARGEST
            if value > largest:
                raise fields.error(f"attribute {name!r} is {value}; it must be a whole number up to {largest}")
