"""Cores that are no transformers: LSTM, GRU, and an MLP that remembers nothing.

All are ``core(inputs [B, T, F], resets [B, T], memory) -> (outputs [B, T, D], memory)`` with
``core.initial_memory(batch_size)``, as :class:`gempi_jax.models.transformer_xl.TransformerXL` is.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.models.dense import Dense
from gempi_jax.numerics.checks import require
from gempi_jax.numerics.keys import named_key
from gempi_jax.types import Array

INPUT_KERNEL = nn.initializers.lecun_normal()


class LSTMMemory(NamedTuple):
    """c and h after the last step; zeros before the first."""

    cell: Float[Array, "B D"]
    hidden: Float[Array, "B D"]


class GRUMemory(NamedTuple):
    """h after the last step; zeros before the first."""

    hidden: Float[Array, "B D"]


def recurrent_kernel(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Float[Array, "D F"]:
    """An orthogonal D x D matrix for each part of F."""
    width, features = shape
    keys = [named_key(key, "part", index) for index in range(features // width)]
    return jnp.concatenate([nn.initializers.orthogonal()(each, (width, width), dtype) for each in keys], axis=1)


def unroll(step, memory, resets: Bool[Array, "B T"], inputs: Float[Array, "B T F"]):
    """Scans ``step(memory, inputs [B, F]) -> memory`` over time, from zeros wherever an episode begins.

    Returns:
      The memory after the last step, and ``memory.hidden`` after each, [B, T, D].
    """

    def one(memory, now):
        begins, x = now
        memory = step(jax.tree.map(lambda m: jnp.where(begins[:, None], jnp.zeros_like(m), m), memory), x)
        return memory, memory.hidden

    if inputs.shape[1] == 1:
        memory, outputs = one(memory, (resets[:, 0], inputs[:, 0]))
        return memory, outputs[:, None]
    memory, outputs = jax.lax.scan(one, memory, (resets.T, inputs.swapaxes(0, 1)))
    return memory, outputs.swapaxes(0, 1)


class LSTM(nn.Module):
    """c' = f c + i g, h' = o tanh(c'), with i, f, g, o of W x + U h + b side by side, in this order.

    Attributes:
      width: D.
      forget_bias: of f at the start, so that a fresh cell keeps what it has.
      dtype: of activations and memory.
    """

    width: int
    forget_bias: float = 1.0
    dtype: Any = jnp.float32

    def __post_init__(self):
        require(self.width > 0, f"LSTM: width is {self.width}; give a positive number.")
        super().__post_init__()

    def initial_memory(self, batch_size: int) -> LSTMMemory:
        """Zeros."""
        shape = (batch_size, self.width)
        return LSTMMemory(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "B T F"], resets: Bool[Array, "B T"], memory: LSTMMemory
    ) -> tuple[Float[Array, "B T D"], LSTMMemory]:
        """The hidden states of T steps and the memory after them."""

        def bias_init(key, shape, dtype=jnp.float32):
            return jnp.zeros(shape, dtype).at[self.width : 2 * self.width].set(self.forget_bias)

        kernel = self.param("recurrent", recurrent_kernel, (self.width, 4 * self.width)).astype(self.dtype)
        bias = self.param("bias", bias_init, (4 * self.width,)).astype(self.dtype)
        driven = Dense(4 * self.width, dtype=self.dtype, kernel_init=INPUT_KERNEL, name="input")(inputs)

        def step(memory, x):
            i, f, g, o = jnp.split(x + memory.hidden @ kernel, 4, axis=-1)
            cell = jax.nn.sigmoid(f) * memory.cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            return LSTMMemory(cell, jax.nn.sigmoid(o) * jnp.tanh(cell))

        memory, outputs = unroll(step, memory, resets, driven + bias[None, None])
        return outputs, memory


class GRU(nn.Module):
    """h' = (1 - z) n + z h, n = tanh(W_n x + b_n + r (U_n h + c)), with r, z, n side by side, in this order.

    Attributes:
      width: D.
      dtype: of activations and memory.
    """

    width: int
    dtype: Any = jnp.float32

    def __post_init__(self):
        require(self.width > 0, f"GRU: width is {self.width}; give a positive number.")
        super().__post_init__()

    def initial_memory(self, batch_size: int) -> GRUMemory:
        """Zeros."""
        return GRUMemory(jnp.zeros((batch_size, self.width), self.dtype))

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "B T F"], resets: Bool[Array, "B T"], memory: GRUMemory
    ) -> tuple[Float[Array, "B T D"], GRUMemory]:
        """The hidden states of T steps and the memory after them."""
        kernel = self.param("recurrent", recurrent_kernel, (self.width, 3 * self.width)).astype(self.dtype)
        inner = self.param("candidate_bias", nn.initializers.zeros_init(), (self.width,)).astype(self.dtype)
        driven = Dense(3 * self.width, use_bias=True, dtype=self.dtype, kernel_init=INPUT_KERNEL, name="input")(inputs)

        def step(memory, x):
            x_r, x_z, x_n = jnp.split(x, 3, axis=-1)
            h_r, h_z, h_n = jnp.split(memory.hidden @ kernel, 3, axis=-1)
            update = jax.nn.sigmoid(x_z + h_z)
            candidate = jnp.tanh(x_n + jax.nn.sigmoid(x_r + h_r) * (h_n + inner[None]))
            return GRUMemory(candidate + update * (memory.hidden - candidate))

        memory, outputs = unroll(step, memory, resets, driven)
        return outputs, memory


class MLPCore(nn.Module):
    """Layers at each step by itself; its memory is ``()``.

    Attributes:
      widths: of the rectified layers; none passes the inputs on.
      dtype: of activations.
    """

    widths: tuple[int, ...] = (64,)
    dtype: Any = jnp.float32

    def initial_memory(self, batch_size: int) -> tuple[()]:
        """Nothing."""
        return ()

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "B T F"], resets: Bool[Array, "B T"], memory: tuple[()]
    ) -> tuple[Float[Array, "B T D"], tuple[()]]:
        """The features of T steps, and nothing."""
        features = inputs.astype(self.dtype)
        for number, width in enumerate(self.widths):
            dense = Dense(width, use_bias=True, dtype=self.dtype, kernel_init=INPUT_KERNEL, name=f"layers_{number}")
            features = jax.nn.relu(dense(features))
        return features, ()


__all__ = ["GRU", "LSTM", "GRUMemory", "LSTMMemory", "MLPCore", "unroll"]
