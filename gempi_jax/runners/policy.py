"""The policy of a run: where it comes from, what of it trains, and what is exported."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.core
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerBase

from gempi_jax.llm.columns import is_text_row
from gempi_jax.llm.hf.end_tokens import list_end_tokens
from gempi_jax.llm.hf.flax_models import load_flax_policy
from gempi_jax.llm.hf.peft import load_adapters, save_adapters
from gempi_jax.llm.hf.pretrained import Pretrained, load_pretrained, save_pretrained
from gempi_jax.llm.preferences import ANSWERS
from gempi_jax.llm.templates import choose_template
from gempi_jax.llm.tokenizers import Alphabet, check_ids, load_tokenizer, train_tokenizer
from gempi_jax.models import Adapted, Decoder, DecoderConfig, LoRA, init_adapters, merge_adapters
from gempi_jax.numerics.keys import named_key
from gempi_jax.runners.build import blame, lookup
from gempi_jax.runners.settings import LoRASettings, ModelSettings, RunSettings
from gempi_jax.runners.tasks import Task
from gempi_jax.training import sharding
from gempi_jax.types import Params

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Start(NamedTuple):
    """A policy before the first update.

    Attributes:
      pretrained: the whole model, with its tokenizer.
      model: the network, whose parameters are those that train.
      params: those, at their start: all of the model's, or fresh adapters.
      frozen: the parameters that the network reads and nothing trains: the base under adapters, else ``{}``.
    """

    pretrained: Pretrained
    model: Any
    params: Params
    frozen: Params

    def without_params(self) -> "Start":
        """With shapes in place of the parameters that train."""
        shapes = jax.eval_shape(lambda: self.params)
        pretrained = self.pretrained if self.frozen else self.pretrained._replace(params=shapes)
        return self._replace(pretrained=pretrained, params=shapes)

    def fingerprint(self) -> dict[str, str]:
        """What a checkpoint must agree with: the architecture and, under adapters, them and their base's bits."""
        config = self.model.config
        values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        # A function's own string holds its address, which is another one in every process.
        names = {name: value.__name__ if callable(value) else str(value) for name, value in values.items()}
        if self.frozen:
            names |= {"lora": str(self.model.lora), "base": str(checksum(self.frozen))}
        return names

    def export(self, folder: pathlib.Path, params: Params, base: str = "", eos_ids: Sequence[int] = ()) -> None:
        """Writes the policy with these trained parameters.

        Adapters are merged into their base; beside the folder, ``<folder>_adapter`` holds them alone, for PEFT.

        Args:
          folder: in Hugging Face's format.
          params: of the network.
          base: where the base came from, for PEFT to find it.
          eos_ids: tokens that ended the run's completions, which generation_config.json is to list.
        """
        if self.frozen:
            adapter = folder.with_name(f"{folder.name}_adapter")
            save_adapters(adapter, jax.device_get(params), self.model.lora, self.pretrained, base=base)
            params = merge_adapters(self.frozen, params, self.model.lora)
        save_pretrained(folder, self.pretrained._replace(params=jax.device_get(params)))
        if eos_ids:
            list_end_tokens(folder, eos_ids)


def load_start(settings: RunSettings, task: Task, mesh: Mesh) -> Start:
    """The policy that the settings describe, a checkpoint's parameters read straight into their shards.

    Args:
      settings: of the run.
      task: its rows, from which a new model's tokenizer is made.
      mesh: where the parameters are to lie, by the rules.

    Raises:
      ValueError: settings that contradict each other or the model.
    """
    lora = settings.model.lora
    fresh = _fresh(lora) if lora.rank else None
    pretrained = load_policy(settings, task, mesh)
    if not lora.used:
        return Start(pretrained, pretrained.model, pretrained.params, {})
    if fresh is None:
        how, adapters = load_adapters(lora.path, pretrained)
        how = dataclasses.replace(how, dropout=lora.dropout)
    else:
        key = named_key(jax.random.key(settings.seed), "adapters")
        with blame("config.model.lora"):
            how, adapters = fresh, init_adapters(pretrained.params, fresh, key)
    return Start(pretrained, Adapted(pretrained.model, how), adapters, pretrained.params)


def _fresh(settings: LoRASettings) -> LoRA:
    with blame("config.model.lora"):
        return LoRA(settings.rank, settings.alpha, settings.targets, settings.dropout)


def peek_tokenizer(settings: RunSettings) -> PreTrainedTokenizerBase | None:
    """The policy's tokenizer before its weights are read; ``None`` where it is still to be made.

    What is wrong with it is said when the policy is loaded.
    """
    if not (settings.model.path and pathlib.Path(settings.model.path).expanduser().is_dir()):
        return None
    try:
        tokenizer = load_tokenizer(settings.model.path)
        if settings.data.chat_template:
            choose_template(tokenizer, settings.data.chat_template)
    except (OSError, ValueError, ImportError):
        return None
    return tokenizer


def load_policy(settings: RunSettings, task: Task, mesh: Mesh) -> Pretrained:
    """A checkpoint, or a new decoder with a tokenizer trained on the demonstrations and prompts of the task."""
    return lookup(LOADERS, settings.model.loader, "config.model.loader")(settings, task, mesh)


def _decoder(settings: RunSettings, task: Task, mesh: Mesh) -> Pretrained:
    model = settings.model
    dtype = _activation_dtype(model.dtype)
    if model.path:
        # Small steps need float32; what nothing trains stays as it came, and is exported so.
        kept = None if model.lora.used else jnp.float32
        pretrained = load_pretrained(model.path, dtype=kept, placing=functools.partial(_place, mesh))
        if pretrained.tokenizer is None:
            raise ValueError(f"config.model.path = {model.path!r} holds no tokenizer; save the model's own into it")
    else:
        pretrained = _new(model, settings.seed, task, mesh)
    config = dataclasses.replace(
        pretrained.model.config, embedding_dropout=model.dropout, residual_dropout=model.dropout
    )
    return pretrained._replace(model=pretrained.model.clone(config=config, dtype=dtype))


def _flax_class(settings: RunSettings, task: Task, mesh: Mesh) -> Pretrained:
    model, place = settings.model, "config.model.loader = 'flax'"
    if not model.path:
        raise ValueError(f"{place}: give config.model.path, a folder that a Flax class of transformers opens")
    if model.lora.used or model.dropout:
        setting = "lora" if model.lora.used else "dropout"
        raise ValueError(
            f"{place}: config.model.{setting} is of our decoder only; leave it out, or use loader 'decoder'"
        )
    try:
        policy, params = load_flax_policy(model.path, dtype=_activation_dtype(model.dtype))
    except ImportError as error:
        raise ValueError(f"{place}: {error}") from error
    tokenizer = load_tokenizer(model.path)
    check_ids(tokenizer, policy.config.vocab_size, model.path)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), flax.core.unfreeze(params))
    return Pretrained(policy, jax.device_put(params, sharding.state_shardings(params, mesh)), tokenizer)


LOADERS = {"decoder": _decoder, "flax": _flax_class}


def _place(mesh: Mesh, path: str, shape: tuple[int, ...]) -> jax.sharding.Sharding:
    return sharding.state_shardings({path: jax.ShapeDtypeStruct(shape, jnp.float32)}, mesh)[path]


def _new(model: ModelSettings, seed: int, task: Task, mesh: Mesh) -> Pretrained:
    if not all(
        isinstance(row.get("prompt", ""), str) for row in (*task.demonstrations, *task.train, *task.preferences)
    ):
        raise ValueError(
            "config.model.path is empty, but the data have role lists: give a model whose tokenizer has a chat template"
        )
    texts = [row["text"] if is_text_row(row) else row["prompt"] + row["completion"] for row in task.demonstrations]
    texts += [row["prompt"] for row in task.train]
    texts += [row["prompt"] + row[answer] for row in task.preferences for answer in ANSWERS]
    with blame(f"config.model.vocab_size = {model.vocab_size}"):
        tokenizer = train_tokenizer(texts, model.vocab_size, alphabet=Alphabet.SEEN)
    decoder = Decoder(
        DecoderConfig(
            vocab_size=len(tokenizer),
            hidden_size=model.hidden_size,
            intermediate_size=model.intermediate_size,
            num_layers=model.num_layers,
            num_heads=model.num_heads,
            num_kv_heads=model.num_kv_heads,
            max_positions=model.max_positions,
            tie_embeddings=True,
        )
    )
    key = named_key(jax.random.key(seed), "policy")
    variables = sharding.init_sharded(decoder.init, key, jnp.zeros((1, 1), jnp.int32), mesh=mesh)
    return Pretrained(decoder, variables["params"], tokenizer)


def checksum(params: Params) -> int:
    """All bits, read as integers and added modulo 2^32: the same on any mesh."""

    def total(leaf: jax.Array) -> jax.Array:
        words = jax.lax.bitcast_convert_type(leaf, {2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize])
        return words.astype(jnp.uint32).sum(dtype=jnp.uint32)

    return sum(int(total(leaf)) for leaf in jax.tree.leaves(params)) % 2**32


def _activation_dtype(name: str):
    if name == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return lookup(DTYPES, name, "config.model.dtype")
