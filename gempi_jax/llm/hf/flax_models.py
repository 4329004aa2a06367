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

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from gempi_jax.llm.hf.flax_classes import open_flax
from gempi_jax.models import Cache, DecoderConfig, KeyValue, Learned, Prefix
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
            # Whatever theirs are, they are the class's own affair; a head of one entry has no pairs to rotate.
            positions=Learned(),
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
