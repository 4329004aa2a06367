"""Transformer-XL and its gated kin as the memory of a policy: norm placement x gate.

==========  ===================  ==================================================================
name        norm                 what joins the sub-layers' outputs to the stream
==========  ===================  ==================================================================
TrXL        after the sum        residual sum (Dai et al. 2019)
TrXL-I      on the input alone   residual sum of the rectified output
GTrXL-*     on the input alone   a gate of stream and rectified output (Parisotto et al. 2019)
==========  ===================  ==================================================================

A query sees itself, at distance 0, and the ``memory_length`` steps before it that belong to its episode, whether they
come from the memory or from the chunk: steps one at a time and chunks of any length give the same outputs.
"""

import enum
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.models import ring
from gempi_jax.models.config import Layer
from gempi_jax.models.dense import Dense
from gempi_jax.models.gates import GRUGate, Residual
from gempi_jax.models.norms import Norm
from gempi_jax.models.relative_attention import RelativeAttention
from gempi_jax.models.ring import Memory
from gempi_jax.numerics.checks import require
from gempi_jax.types import Array

KERNEL = nn.initializers.xavier_uniform()


class NormPlacement(enum.Enum):
    """Where the layer norm of a sub-layer sits."""

    INPUT = "input"
    """On what the sub-layer reads, whose output is then rectified: the stream itself is never normalised."""
    OUTPUT = "output"
    """On the stream, after the sub-layer's output has joined it."""


class Block(nn.Module):
    """Attention, then a two-layer MLP at each position; the attributes are those of :class:`TransformerXL`."""

    num_heads: int
    head_dim: int
    mlp_width: int
    placement: NormPlacement
    gate: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(
        self,
        inputs: Float[Array, "B T D"],
        recalled: Float[Array, "B M D"],
        mask: Bool[Array, "B T N"],
    ) -> Float[Array, "B T D"]:
        """The stream after this block; ``recalled`` are its inputs at the M steps before."""
        width, steps = inputs.shape[-1], inputs.shape[1]
        first = self.placement is NormPlacement.INPUT

        def norm(x, name):
            return Norm(Layer(), dtype=self.dtype, name=f"{name}_norm")(x)

        def join(stream, output, name):
            gate = self.gate(dtype=self.dtype, name=f"{name}_gate")
            return gate(stream, jax.nn.relu(output)) if first else norm(gate(stream, output), name)

        context = jnp.concatenate([recalled.astype(self.dtype), inputs], axis=1)
        context = norm(context, "attention") if first else context
        attention = RelativeAttention(self.num_heads, self.head_dim, dtype=self.dtype, name="attention")
        stream = join(inputs, attention(context[:, -steps:], context, mask), "attention")

        def dense(features, name):
            return Dense(features, use_bias=True, dtype=self.dtype, kernel_init=KERNEL, name=name)

        hidden = jax.nn.relu(dense(self.mlp_width, "mlp_up")(norm(stream, "mlp") if first else stream))
        return join(stream, dense(width, "mlp_down")(hidden), "mlp")


class TransformerXL(nn.Module):
    """A core with the memory of :class:`gempi_jax.models.ring.Memory`.

    Attributes:
      width: D, of the stream; inputs of another width are projected to it.
      num_layers: blocks.
      num_heads: H.
      mlp_width: of the hidden layer at each position.
      memory_length: M, how many steps before its own a query may see in each block.
      unroll_length: how many steps the memory is written before a learner is done with reading it as it was at their
        beginning (:meth:`Memory.rewound`); the ring has M + ``unroll_length`` slots.
      head_dim: of a head; ``None`` for D / H.
      placement: of the layer norms.
      gate: makes the module that joins a sub-layer's output to the stream, called with ``dtype`` and ``name``.
      dtype: of activations and memory; parameters, norms and softmax are float32.

    Raises:
      ValueError: sizes that are not positive, or a width that the heads do not divide.
    """

    width: int
    num_layers: int = 2
    num_heads: int = 2
    mlp_width: int = 64
    memory_length: int = 32
    unroll_length: int = 1
    head_dim: int | None = None
    placement: NormPlacement = NormPlacement.INPUT
    gate: Callable[..., nn.Module] = GRUGate
    dtype: Any = jnp.float32

    def __post_init__(self):
        for name in ("width", "num_layers", "num_heads", "mlp_width", "memory_length", "unroll_length"):
            value = getattr(self, name)
            require(value > 0, f"TransformerXL: {name} is {value}; give a positive number.")
        require(self.width % 2 == 0, f"TransformerXL: width is {self.width}; sines and cosines need an even one.")
        require(
            self.head_dim is not None or self.width % self.num_heads == 0,
            f"TransformerXL: width {self.width} is no multiple of num_heads {self.num_heads}; set head_dim.",
        )
        super().__post_init__()

    def initial_memory(self, batch_size: int) -> Memory:
        """An empty memory of ``batch_size`` environments."""
        return ring.empty(batch_size, self.num_layers, self.memory_length + self.unroll_length, self.width, self.dtype)

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "B T F"], resets: Bool[Array, "B T"], memory: Memory
    ) -> tuple[Float[Array, "B T D"], Memory]:
        """The features of T steps and the memory after them.

        Args:
          inputs: features of each step.
          resets: where an episode begins; nothing before is seen from there on.
          memory: from :meth:`initial_memory` or the call before; no gradient flows into it.
        """
        stream = inputs.astype(self.dtype)
        if inputs.shape[-1] != self.width:
            stream = Dense(self.width, use_bias=True, dtype=self.dtype, kernel_init=KERNEL, name="embedding")(stream)
        mask = ring.visible(resets, memory.valid, self.memory_length)
        recalled = ring.recall(memory, self.memory_length)
        read = []
        for number in range(self.num_layers):
            read.append(stream)
            stream = self.block(f"blocks_{number}")(stream, recalled[:, number], mask)
        # Written once, with what was computed of all that was read: so the compiler writes in place.
        return stream, ring.write(memory, jnp.stack(read, axis=1), resets)

    def block(self, name: str) -> Block:
        """One of the blocks."""
        head_dim = self.head_dim or self.width // self.num_heads
        return Block(self.num_heads, head_dim, self.mlp_width, self.placement, self.gate, self.dtype, name=name)


def trxl(width: int, **sizes) -> TransformerXL:
    """Transformer-XL as published: norms on the stream, residual sums."""
    return TransformerXL(width, placement=NormPlacement.OUTPUT, gate=Residual, **sizes)


def trxl_i(width: int, **sizes) -> TransformerXL:
    """TrXL-I, the identity map reordered: norms on the sub-layers' inputs, their outputs rectified, residual sums."""
    return TransformerXL(width, gate=Residual, **sizes)


def gtrxl(width: int, gate: Callable[..., nn.Module] = GRUGate, **sizes) -> TransformerXL:
    """GTrXL: TrXL-I whose sums are gates."""
    return TransformerXL(width, gate=gate, **sizes)


__all__ = ["Block", "Memory", "NormPlacement", "TransformerXL", "gtrxl", "trxl", "trxl_i"]
