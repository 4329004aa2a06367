"""What a family of Hugging Face models is, as data: how its config.json reads, and what its tensors are called."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gempi_jax.llm.hf.fields import Fields
from gempi_jax.models import DecoderConfig, gelu, gelu_tanh

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint and the parameters that it holds; ``{}`` in the names stands for the layer.

    Attributes:
      name: in the checkpoint.
      paths: of our parameters; several when the checkpoint keeps them side by side along the output axis.
      transposed: the checkpoint stores [out, in].
    """

    name: str
    paths: tuple[str, ...]
    transposed: bool = False


@dataclasses.dataclass(frozen=True)
class Family:
    """What tells one architecture's files from another's.

    Attributes:
      architecture: as ``architectures`` of config.json names it.
      model_type: as ``model_type`` names it.
      read: its attributes -> DecoderConfig.
      tensors: all that a checkpoint may hold; which of them one does hold follows from the DecoderConfig.
      write: DecoderConfig -> its attributes, for models made here.
      base: the prefix of tensor names that some files leave out.
      buffers: patterns of names that hold no parameters.
      own_code: the values of ``auto_map`` by which this very architecture was published.
    """

    architecture: str
    model_type: str
    read: Callable[[Fields], DecoderConfig]
    tensors: tuple[Tensor, ...]
    write: Callable[[DecoderConfig], dict[str, Any]] | None = None
    base: str = "model."
    buffers: tuple[str, ...] = (r"\.rotary_emb\.inv_freq$",)
    own_code: tuple[str, ...] = ()


def activation_name(config: DecoderConfig, default: str) -> str:
    """What files call a decoder's activation; ``default`` where they have no name for it."""
    names = {function: name for name, function in reversed(ACTIVATIONS.items())}
    return names.get(config.activation, default)
