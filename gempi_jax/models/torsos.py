"""From observations [B, T, ...] to features [B, T, D], each step by itself."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from gempi_jax.models.dense import Dense
from gempi_jax.types import Array

KERNEL = nn.initializers.orthogonal(np.sqrt(2.0))


def layers(widths: Sequence[int], activation: Callable, dtype: Any, features: Array) -> Array:
    """Dense layers named ``layers_0`` ..., each followed by the activation; of the module that calls it."""
    for number, width in enumerate(widths):
        dense = Dense(width, use_bias=True, dtype=dtype, kernel_init=KERNEL, name=f"layers_{number}")
        features = activation(dense(features))
    return features


class MLPTorso(nn.Module):
    """Dense layers on the flattened observation.

    Attributes:
      widths: of the layers; none flattens alone.
      activation: after each of them.
      dtype: of the computation.
    """

    widths: tuple[int, ...] = (64,)
    activation: Callable[[Array], Array] = jax.nn.relu
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, observations: Float[Array, "B T ..."]) -> Float[Array, "B T D"]:
        """The features of each step."""
        flat = observations.reshape(*observations.shape[:2], -1).astype(self.dtype)
        return layers(self.widths, self.activation, self.dtype, flat)


class CNNTorso(nn.Module):
    """Rectified convolutions on pictures [H, W, channels], then dense layers.

    Attributes:
      channels, kernels, strides: of the convolutions; one of 16 for MinAtar's 10 x 10 by default.
      widths: of the dense layers.
      scale: what pictures are multiplied by first; 1/255 for bytes.
      padding: of the convolutions.
      dtype: of the computation.

    Raises:
      ValueError: lists of different lengths.
    """

    channels: tuple[int, ...] = (16,)
    kernels: tuple[int, ...] = (3,)
    strides: tuple[int, ...] = (1,)
    widths: tuple[int, ...] = (128,)
    scale: float = 1.0
    padding: str = "VALID"
    dtype: Any = jnp.float32

    def __post_init__(self):
        if not len(self.channels) == len(self.kernels) == len(self.strides):
            raise ValueError(
                f"CNNTorso: channels {self.channels}, kernels {self.kernels} and strides {self.strides}; give one of "
                "each for every convolution."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, observations: Float[Array, "B T H W C"]) -> Float[Array, "B T D"]:
        """The features of each step."""
        pictures = flat_pictures(observations, self.scale, self.dtype)
        for number, (channels, kernel, stride) in enumerate(
            zip(self.channels, self.kernels, self.strides, strict=True)
        ):
            name = f"convolutions_{number}"
            pictures = jax.nn.relu(convolution(channels, kernel, self.dtype, name, stride, self.padding)(pictures))
        flat = pictures.reshape(*observations.shape[:2], -1)
        return layers(self.widths, jax.nn.relu, self.dtype, flat)


class ResNetTorso(nn.Module):
    """The deep residual network of IMPALA (Espeholt et al. 2018, figure 3), which GTrXL's experiments look through.

    For each entry of ``channels``: a convolution, pooling 3 x 3 by 2, two residual blocks of two convolutions.

    Attributes:
      channels: of the sections.
      widths: of the dense layers behind them.
      scale: what pictures are multiplied by first; 1/255 for bytes.
      dtype: of the computation.
    """

    channels: tuple[int, ...] = (16, 32, 32)
    widths: tuple[int, ...] = (256,)
    scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, observations: Float[Array, "B T H W C"]) -> Float[Array, "B T D"]:
        """The features of each step."""
        pictures = flat_pictures(observations, self.scale, self.dtype)
        for section, channels in enumerate(self.channels):
            pictures = convolution(channels, 3, self.dtype, f"sections_{section}")(pictures)
            pictures = nn.max_pool(pictures, (3, 3), strides=(2, 2), padding="SAME")
            for block in range(2):
                inner = pictures
                for number in range(2):
                    name = f"sections_{section}_blocks_{block}_{number}"
                    inner = convolution(channels, 3, self.dtype, name)(jax.nn.relu(inner))
                pictures = pictures + inner
        flat = jax.nn.relu(pictures).reshape(*observations.shape[:2], -1)
        return layers(self.widths, jax.nn.relu, self.dtype, flat)


def flat_pictures(observations: Float[Array, "B T H W C"], scale: float, dtype: Any) -> Float[Array, "N H W C"]:
    """Batch and time as one axis; the scale is applied in float32."""
    pictures = observations.reshape(-1, *observations.shape[2:]).astype(jnp.float32)
    return (pictures * scale).astype(dtype)


def convolution(channels: int, kernel: int, dtype: Any, name: str, stride: int = 1, padding: str = "SAME") -> nn.Conv:
    """A square convolution with a bias, parameters in float32."""
    size, steps = (kernel, kernel), (stride, stride)
    return nn.Conv(channels, size, steps, padding=padding, dtype=dtype, kernel_init=KERNEL, name=name)


def with_previous(
    features: Float[Array, "B T D"],
    actions: Int[Array, "B T"] | Float[Array, "B T A"],
    rewards: Float[Array, "B T"],
    resets: Bool[Array, "B T"],
    num_actions: int | None = None,
) -> Float[Array, "B T F"]:
    """Features beside the action and the reward of the step before, all zero where an episode begins.

    Args:
      features: of each step.
      actions: of the step before.
      rewards: of the step before.
      resets: where there is no step before.
      num_actions: of discrete actions, which become one-hot vectors; ``None`` where actions are vectors.
    """
    vectors = actions if num_actions is None else jax.nn.one_hot(actions, num_actions)
    before = jnp.concatenate([vectors.astype(features.dtype), rewards[..., None].astype(features.dtype)], axis=-1)
    before = jnp.where(resets[..., None], jnp.zeros_like(before), before)
    return jnp.concatenate([features, before], axis=-1)


__all__ = ["CNNTorso", "MLPTorso", "ResNetTorso", "with_previous"]
