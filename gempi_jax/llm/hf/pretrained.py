"""Checkpoint folders in and out."""

import dataclasses
import pathlib
import re
from typing import Any, NamedTuple

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from gempi_jax.llm.hf.config import check_config, family_of, read_config, read_json, write_config
from gempi_jax.llm.hf.weights import Placing, load_weights, save_weights, write_json
from gempi_jax.llm.tokenizers import check_ids, load_tokenizer
from gempi_jax.models import Decoder
from gempi_jax.types import Params


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """What a checkpoint folder says about itself, as it says it; ``model.config`` is how it was understood.

    Attributes:
      model: config.json.
      generation: generation_config.json; empty when there is none.
    """

    model: dict[str, Any]
    generation: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The ids that end a completion, of generation_config.json before config.json; empty when neither says.

        Raises:
          ValueError: what stands there is no id.
        """
        for place, values in (("generation_config.json", self.generation), ("config.json", self.model)):
            stated = values.get("eos_token_id")
            if stated is not None:
                ids = stated if isinstance(stated, list) else [stated]
                if not all(type(i) is int and i >= 0 for i in ids):
                    raise ValueError(
                        f"{place}: attribute 'eos_token_id' is {stated!r}; it must be a token's id, or a list of them"
                    )
                return tuple(ids)
        return ()


class Pretrained(NamedTuple):
    """A language model with all that goes with it.

    Attributes:
      model: ``model.apply({"params": params}, tokens)`` gives logits.
      params: its parameters.
      tokenizer: of transformers; ``None`` when the model is used on ids alone.
      config: of the checkpoint that it came from; ``None`` for a model made here, which is exported as a Llama (or as a
        GPT-2, where it is one).
    """

    model: Any
    params: Params
    tokenizer: Any
    config: CheckpointConfig | None = None


def load_pretrained(
    path: str | pathlib.Path,
    *,
    dtype: Any = None,
    activation_dtype: Any = None,
    placing: Placing | None = None,
) -> Pretrained:
    """A model, its parameters and its tokenizer from a Hugging Face folder.

    Only JSON, safetensors and tokenizer files are read; nothing that comes with a checkpoint is ever executed.

    Args:
      path: the folder, or a name on the model hub where there is a network.
      dtype: of the parameters; ``None`` keeps the checkpoint's.  Fine-tune in float32.
      activation_dtype: of the activations; ``None`` for the parameters'.  Logits come in float32 always.
      placing: from a parameter's path and shape to its sharding; ``None`` for the default device.

    Returns:
      The model without its tokenizer (``None``) when the folder has none.

    Raises:
      FileNotFoundError: the folder, a file or a shard is missing.
      ValueError: an architecture, attribute or tensor that is not understood; a corrupt file; two sets of
        weights; a tokenizer with an id that the embedding has no row for.
      ImportError: a tokenizer of SentencePiece's own format, whose library is missing.
    """
    folder = _resolve(path)
    values = read_json(folder / "config.json")
    config = read_config(values, str(folder / "config.json"))
    generation = folder / "generation_config.json"
    tokenizer = load_tokenizer(folder) if _has_tokenizer(folder) else None
    if tokenizer is not None:
        check_ids(tokenizer, config.vocab_size, str(folder))
    params = load_weights(folder, family_of(values), config, dtype, placing)
    if activation_dtype is None:
        activation_dtype = params["embedding"].dtype
    return Pretrained(
        Decoder(config, jnp.dtype(activation_dtype)),
        params,
        tokenizer,
        CheckpointConfig(values, read_json(generation) if generation.is_file() else {}),
    )


def _has_tokenizer(folder: pathlib.Path) -> bool:
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
    return any((folder / name).is_file() for name in names)


# Neither code nor pickles, nor the second copy of the weights that some folders hold (consolidated.safetensors).
_DOWNLOADED = ("*.json", "model*.safetensors", "flax_model*.msgpack", "*.model", "*.txt", "*.jinja")


def _resolve(path: str | pathlib.Path) -> pathlib.Path:
    """A folder here; a name on the hub is downloaded, without its code and its pickles."""
    folder = pathlib.Path(path).expanduser()
    if folder.is_dir():
        return folder
    if not isinstance(path, str) or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", path):
        raise FileNotFoundError(
            f"load_pretrained: there is no folder {folder}; give one that holds config.json and model.safetensors"
        )
    import huggingface_hub

    try:
        return pathlib.Path(huggingface_hub.snapshot_download(path, allow_patterns=list(_DOWNLOADED)))
    except Exception as error:  # the hub's library has a dozen kinds; all mean that the name leads nowhere
        raise FileNotFoundError(
            f"load_pretrained: {path!r} is neither a folder here nor a model that the hub gave "
            f"({type(error).__name__}); give a folder that holds config.json and model.safetensors"
        ) from error


def save_pretrained(path: str | pathlib.Path, pretrained: Pretrained, *, max_shard_bytes: int = 5 * 10**9) -> None:
    """Writes a folder that transformers' AutoModelForCausalLM, AutoTokenizer and GenerationConfig open.

    What was loaded and not changed comes out bit-identical.

    Args:
      path: the folder; made if it does not exist.
      pretrained: what to write; parameters keep their dtype.
      max_shard_bytes: weights beyond this size go into several files with an index.

    Raises:
      ValueError: a model that no Hugging Face family expresses, or one that its config.json does not describe.
    """
    model, params, tokenizer, config = pretrained
    if not isinstance(model, Decoder):
        # A model of another library writes itself.
        model.save(path, params)
        if tokenizer is not None:
            tokenizer.save_pretrained(path)
        return
    if config is None:
        values = write_config(model.config) | _token_ids(tokenizer)
        config = CheckpointConfig(values, _token_ids(tokenizer))
    check_config(config.model, model.config)
    folder = pathlib.Path(path).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder, family_of(config.model), model.config, params, max_shard_bytes)
    write_json(folder / "config.json", _with_dtype(config.model, params))
    if config.generation:
        write_json(folder / "generation_config.json", config.generation)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _token_ids(tokenizer: Any) -> dict[str, int]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {name: getattr(tokenizer, name, None) for name in names}
    return {name: value for name, value in ids.items() if value is not None}


def _with_dtype(values: dict[str, Any], params: Params) -> dict[str, Any]:
    """config.json with the type of the weights: transformers loads in the type that stands here."""
    dtypes = {str(np.dtype(leaf.dtype)) for leaf in flax.traverse_util.flatten_dict(params).values()}
    if len(dtypes) > 1:
        raise ValueError(f"the parameters have several types ({', '.join(sorted(dtypes))}); cast them to one")
    return {name: value for name, value in values.items() if name != "dtype"} | {"torch_dtype": dtypes.pop()}
