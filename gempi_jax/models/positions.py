"""Where a token is: learned embeddings, or rotations of queries and keys."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from gempi_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Learned:
    """One trained vector per position, added to the embedded tokens."""


@dataclasses.dataclass(frozen=True)
class Unscaled:
    """Frequencies as they are."""

    def frequencies(self, base: np.ndarray) -> np.ndarray:
        """``base`` unchanged."""
        return base


@dataclasses.dataclass(frozen=True)
class Linear:
    """Positions divided by ``factor``."""

    factor: float

    def frequencies(self, base: np.ndarray) -> np.ndarray:
        """``base`` / factor."""
        return base / self.factor


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Pairs (i, i + half) of a head's first ``dim`` entries turn by position * theta^(-2i/dim).

    Attributes:
      theta: the base of the wavelengths.
      scaling: changes the frequencies for contexts longer than those trained on.
      fraction: the part of the head's entries that turns.
    """

    theta: float = 10000.0
    scaling: Unscaled | Linear = Unscaled()
    fraction: float = 1.0

    def dim(self, head_dim: int) -> int:
        """How many entries of a head turn."""
        return int(head_dim * self.fraction)


Angles = tuple[Float[Array, "*M half"], Float[Array, "*M half"]]
"""Cosines and sines of every position's rotations."""


def rotary_angles(rotary: Rotary, head_dim: int, positions: Int[Array, "*N"]) -> Angles:
    """Cosines and sines for absolute ``positions``, in float32."""
    dim = rotary.dim(head_dim)
    base = rotary.theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    frequencies = jnp.asarray(rotary.scaling.frequencies(base), jnp.float32)
    angles = jnp.einsum("...,f->...f", positions.astype(jnp.float32), frequencies)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(vectors: Float[Array, "*N heads dim"], angles: Angles) -> Float[Array, "*N heads dim"]:
    """Turns each head's vectors by their position's angles; entries beyond the rotated fraction stay."""
    cos, sin = (jnp.expand_dims(part, -2).astype(vectors.dtype) for part in angles)
    half = cos.shape[-1]
    first, second, rest = vectors[..., :half], vectors[..., half : 2 * half], vectors[..., 2 * half :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)
