"""Any Flax causal language model of transformers 4.x as a policy, behind the same four passes as our decoder.

The classes offer a forward pass over whole rows and nothing that could share a prompt between completions or take the
head off.  So a "hidden state" here is the logits themselves, a prefix is the prompt's tokens, and every pass reads rows
of prompt and completion from the start: correct for every class, and slower than :class:`gempi_jax.models.Decoder`,
which is to be preferred for the families that it covers.
"""

import dataclasses
import inspect
import pathlib
from typing import Any

import flax.core
import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from gempi_jax.llm.hf.config import read_json
from gempi_jax.llm.hf.fields import LARGEST, MOST_LAYERS, Fields
from gempi_jax.llm.hf.weights import FLAX, SINGLE
from gempi_jax.models import Cache, DecoderConfig, KeyValue, Prefix
from gempi_jax.types import Array, Params


@dataclasses.dataclass(frozen=True, eq=False)
class FlaxPolicy:
    """A FlaxPreTrainedModel with the passes of :class:`gempi_jax.models.Decoder`.

    Attributes:
      model: the transformers model, without its parameters.
    """

    model: Any
    dtype = jnp.float32

    @property
    def config(self) -> DecoderConfig:
        """The sizes that callers ask for: of vocabulary, "hidden state" (the logits) and cache (one token id)."""
        theirs = self.model.config
        names = ("max_position_embeddings", "n_positions", "max_position_embedding")
        longest = next((value for name in names if (value := getattr(theirs, name, None))), 1 << 24)
        return DecoderConfig(
            vocab_size=theirs.vocab_size,
            hidden_size=theirs.vocab_size,
            intermediate_size=1,
            num_layers=1,
            num_heads=1,
            head_dim=1,
            max_positions=longest,
        )

    def apply(
        self,
        variables: dict[str, Params],
        *args: Any,
        method: str | None = None,
        deterministic: bool = True,
        rngs: dict[str, Array] | None = None,
    ) -> Any:
        """As ``Decoder.apply``: the pass named ``method``, or the plain forward pass."""
        if method == "logits":
            return args[0].astype(jnp.float32)
        key = None if deterministic else (rngs or {}).get("dropout")
        if not deterministic and key is None:
            raise ValueError('FlaxPolicy.apply: dropout is on; pass rngs={"dropout": key}')
        passes = {None: self._whole, "prefill": self._prefill, "extend": self._extend, "decode": self._decode}
        if method not in passes:
            raise ValueError(
                f"FlaxPolicy.apply: there is no method {method!r}; there are prefill, extend, decode, logits"
            )
        return passes[method](variables["params"], key, *args)

    def save(self, path: str | pathlib.Path, params: Params) -> None:
        """Writes config.json and weights with the model's own class."""
        # As a string: the classes misspell a JAX type in config.json, and then cannot read it.
        self.model.config.dtype = str(jax.tree.leaves(params)[0].dtype)
        self.model.save_pretrained(path, params=jax.device_get(params))

    def _forward(self, params: Params, key: Array | None, rows: Int[Array, "N T"]) -> Float[Array, "N T V"]:
        # The classes draw from numpy-style keys, and would make one of their own from a fixed seed.
        raw = None if key is None else jax.random.key_data(key)
        # OPT alone names the switch the other way round.
        opposite = "deterministic" in inspect.signature(type(self.model).__call__).parameters
        mode = {"deterministic": key is None} if opposite else {"train": key is not None}
        output = self.model(input_ids=rows, params=params, dropout_rng=raw, **mode)
        return output.logits.astype(jnp.float32)

    def _whole(self, params, key, tokens: Int[Array, "*B T"]) -> Float[Array, "*B T V"]:
        logits = self._forward(params, key, tokens.reshape(-1, tokens.shape[-1]))
        return logits.reshape(*tokens.shape, -1)

    def _prefill(self, params, key, tokens: Int[Array, "G P"], lengths: Int[Array, "G"]):
        ids = tokens[:, None, :, None].astype(jnp.float32)
        return self._forward(params, key, tokens), Prefix((KeyValue(ids, ids),), lengths)

    def _extend(self, params, key, tokens: Int[Array, "G K C"], prefix: Prefix) -> Float[Array, "G K C V"]:
        groups, samples, steps = tokens.shape
        rows = _join(prefix, tokens).reshape(groups * samples, -1)
        logits = self._forward(params, key, rows).reshape(groups, samples, rows.shape[-1], -1)
        places = prefix.lengths[:, None] + jnp.arange(steps)[None]
        return jnp.take_along_axis(logits, places[:, None, :, None], axis=2)

    def _decode(self, params, key, token: Int[Array, "G K"], prefix: Prefix, cache: Cache, step: Int[Array, ""] | int):
        ids = cache[0].keys.at[:, 0, :, step, 0].set(token.astype(cache[0].keys.dtype))
        cache = (KeyValue(ids, cache[0].values),)
        logits = self._extend(params, key, ids[:, 0, :, :, 0].astype(jnp.int32), prefix)
        return jnp.take(logits, step, axis=2), cache


def _join(prefix: Prefix, tokens: Int[Array, "G K C"]) -> Int[Array, "G K R"]:
    """Rows of the prompt's real tokens with the completion right behind them."""
    prompts = prefix.layers[0].keys[:, 0, :, 0].astype(tokens.dtype)
    samples, steps = tokens.shape[1:]
    width = prompts.shape[1]
    padded = jnp.concatenate([jnp.repeat(prompts[:, None], samples, axis=1), tokens], axis=-1)
    columns = jnp.arange(width + steps)[None]
    lengths = prefix.lengths[:, None]
    # Behind the prompt's last real token comes column ``width``; what is past the completion is never looked at.
    source = jnp.where(columns < lengths, columns, jnp.minimum(columns - lengths + width, width + steps - 1))
    return jnp.take_along_axis(padded, source[:, None], axis=-1)


def load_flax_policy(path: str | pathlib.Path, *, dtype: Any = jnp.float32) -> tuple[FlaxPolicy, Params]:
    """A causal language model through transformers' own Flax class.

    Args:
      path: a folder here.
      dtype: of the activations.

    Raises:
      ImportError, FileNotFoundError, ValueError: see :func:`open_flax`.
    """
    model, params = open_flax("FlaxAutoModelForCausalLM", path, dtype=dtype)
    return FlaxPolicy(model), params


def open_flax(opener: str, path: str | pathlib.Path, *, dtype: Any = jnp.float32) -> tuple[Any, Params]:
    """A transformers model by one of its Flax auto classes, apart from its parameters; no code of the folder is run.

    Args:
      opener: the auto class, by name, since transformers 5 has none.
      path: a folder here.
      dtype: of the activations.

    Raises:
      ImportError: the installed transformers has no Flax classes.
      FileNotFoundError: no such folder, or no weights in it.
      ValueError: files that the class cannot read or that lack some of its parameters, a config.json that asks for code
        of the folder's own, or absurd sizes.
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
    if not any((folder / name).is_file() for name in (*_FLAX_FILES, SINGLE)):
        raise FileNotFoundError(f"{folder} holds no weights: none of {', '.join(_FLAX_FILES)} and {SINGLE} is there")
    try:
        model, params = _read(getattr(transformers, opener), folder, dtype)
    except Exception as error:  # of a dozen kinds, for classes and files that do not go together
        raise ValueError(f"{folder}: {opener} cannot open it: {error}") from error
    needed = flax.traverse_util.flatten_dict(flax.core.unfreeze(model.params_shape_tree), sep="/")
    missing = sorted(needed.keys() - flax.traverse_util.flatten_dict(flax.core.unfreeze(params), sep="/").keys())
    if missing:
        raise ValueError(
            f"{folder}: parameter {missing[0]!r} (of {len(missing)}) is missing; the files are another kind of model's "
            f"than {type(model).__name__}"
        )
    return model, params


_FLAX_FILES = (FLAX, f"{FLAX}.index.json")


def _read(opener: Any, folder: pathlib.Path, dtype: Any) -> tuple[Any, Params]:
    """The model and its parameters; of PyTorch's files the safetensors only, which the classes cannot read unaided."""
    strict = {"trust_remote_code": False, "local_files_only": True}
    if any((folder / name).is_file() for name in _FLAX_FILES):
        return opener.from_pretrained(str(folder), dtype=dtype, _do_init=False, **strict)
    from transformers import AutoConfig
    from transformers.modeling_flax_pytorch_utils import load_pytorch_checkpoint_in_flax_state_dict

    # Names are translated by looking at parameters, so some have to be made; the model that is kept has none.
    random = opener.from_config(AutoConfig.from_pretrained(str(folder), **strict), dtype=dtype)
    params = load_pytorch_checkpoint_in_flax_state_dict(random, str(folder / SINGLE), is_sharded=False)
    return type(random)(random.config, dtype=dtype, _do_init=False), params


def _check_config(path: pathlib.Path) -> None:
    values = read_json(path)
    fields = Fields(values, str(path))
    fields.refuse_code(())
    for name, value in values.items():
        if isinstance(value, int):
            largest = MOST_LAYERS if name.endswith(("layers", "n_layer")) else LARGEST
            if value > largest:
                raise fields.error(f"attribute {name!r} is {value}; it must be a whole number up to {largest}")
