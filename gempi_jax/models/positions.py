"""Where a token is: learned embeddings, or rotations of queries and keys with every scaling in use."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from gempi_jax.types import Array

Frequencies = Float[np.ndarray, "half"] | Float[Array, "*R half"]
"""Radians per position of each pair; with leading axes where they depend on how long a sequence has become."""


@dataclasses.dataclass(frozen=True)
class Learned:
    """One trained vector per position, added to the embedded tokens."""


def base_frequencies(theta: float, dim: int) -> Float[np.ndarray, "half"]:
    """theta^(-2i/dim)."""
    return theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)


@dataclasses.dataclass(frozen=True)
class Unscaled:
    """Frequencies as they are."""

    magnitude = 1.0

    def frequencies(self, theta: float, dim: int, reach: Int[Array, "*R"]) -> Frequencies:
        """The unscaled frequencies, for any ``reach``."""
        return base_frequencies(theta, dim)


@dataclasses.dataclass(frozen=True)
class Linear:
    """Positions divided by ``factor``."""

    factor: float
    magnitude = 1.0

    def frequencies(self, theta: float, dim: int, reach: Int[Array, "*R"]) -> Frequencies:
        """All frequencies divided by the factor."""
        return base_frequencies(theta, dim) / self.factor


@dataclasses.dataclass(frozen=True)
class Dynamic:
    """NTK-aware scaling: theta grows with the sequence once it is longer than ``trained`` positions."""

    factor: float
    trained: int
    magnitude = 1.0

    def frequencies(self, theta: float, dim: int, reach: Int[Array, "*R"]) -> Frequencies:
        """Frequencies of a theta that depends on ``reach``."""
        length = jnp.maximum(reach, self.trained).astype(jnp.float32)
        stretch = (self.factor * length / self.trained - (self.factor - 1)) ** (dim / (dim - 2))
        exponents = jnp.asarray(-np.arange(0, dim, 2) / dim, jnp.float32)
        return jnp.power(*jnp.broadcast_arrays(theta * stretch[..., None], _like(exponents, stretch.ndim)))


@dataclasses.dataclass(frozen=True)
class Yarn:
    """Slow frequencies are divided by ``factor``, fast ones kept, with a linear ramp between them.

    Attributes:
      factor: how many times longer the context becomes.
      trained: positions of the original context.
      fast, slow: rotations over the original context at which the ramp begins and ends.
      magnitude: factor on cosines and sines.
      whole: the ramp's ends are rounded to whole pairs.
    """

    factor: float
    trained: int
    fast: float = 32.0
    slow: float = 1.0
    magnitude: float = 1.0
    whole: bool = True

    def frequencies(self, theta: float, dim: int, reach: Int[Array, "*R"]) -> Frequencies:
        """The mixture of kept and divided frequencies."""

        def pair(rotations):
            return dim * math.log(self.trained / (rotations * 2 * math.pi)) / (2 * math.log(theta))

        low, high = pair(self.fast), pair(self.slow)
        if self.whole:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        # A ramp of no width would divide by zero.
        high = high + 0.001 if low == high else high
        divided = np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)
        base = base_frequencies(theta, dim)
        return base / self.factor * divided + base * (1 - divided)


@dataclasses.dataclass(frozen=True)
class LongRope:
    """A divisor per pair: one set within the original context, another beyond it.

    Attributes:
      short, long: the divisors.
      trained: positions of the original context.
      magnitude: factor on cosines and sines.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    trained: int
    magnitude: float = 1.0

    def frequencies(self, theta: float, dim: int, reach: Int[Array, "*R"]) -> Frequencies:
        """Frequencies over the set of divisors that ``reach`` asks for."""
        base = base_frequencies(theta, dim)
        short, long = (
            _like(jnp.asarray(base / np.asarray(part), jnp.float32), reach.ndim) for part in (self.short, self.long)
        )
        return jnp.where((reach > self.trained)[..., None], long, short)


@dataclasses.dataclass(frozen=True)
class Llama3:
    """Wavelengths beyond the original context are divided by ``factor``, those well within kept, between interpolated.

    Attributes:
      factor: how many times longer the context becomes.
      low, high: original context over wavelength at which the interpolation begins and ends.
      trained: positions of the original context.
    """

    factor: float
    low: float
    high: float
    trained: int
    magnitude = 1.0

    def frequencies(self, theta: float, dim: int, reach: Int[Array, "*R"]) -> Frequencies:
        """The mixture of kept and divided frequencies."""
        base = base_frequencies(theta, dim)
        turns = self.trained * base / (2 * math.pi)
        kept = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
        return base / self.factor * (1 - kept) + base * kept


Scaling = Unscaled | Linear | Dynamic | Yarn | LongRope | Llama3


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Pairs (i, i + half) of a head's first ``dim`` entries turn by position * theta^(-2i/dim).

    Attributes:
      theta: the base of the wavelengths.
      scaling: changes the frequencies for contexts longer than those trained on.
      fraction: the part of the head's entries that turns.
    """

    theta: float = 10000.0
    scaling: Scaling = dataclasses.field(default_factory=Unscaled)
    fraction: float = 1.0

    def dim(self, head_dim: int) -> int:
        """How many entries of a head turn."""
        return int(head_dim * self.fraction)


def check_rotary(rotary: Rotary, head_dim: int) -> None:
    """Can this scheme turn heads of this width?

    Raises:
      ValueError: the rotated entries are no pairs, more than there are, or not as many as the scaling has divisors for.
    """
    dim, scaling = rotary.dim(head_dim), rotary.scaling
    if dim % 2 or not 0 < dim <= head_dim:
        raise ValueError(
            f"rotary positions turn {dim} of the {head_dim} entries of a head (fraction {rotary.fraction}); that must "
            f"be an even number from 2 to {head_dim}"
        )
    if isinstance(scaling, Dynamic) and dim == 2:
        raise ValueError("dynamic rotary scaling turns 2 entries of a head; it needs at least 4")
    if isinstance(scaling, LongRope) and not len(scaling.short) == len(scaling.long) == dim // 2:
        raise ValueError(
            f"longrope has {len(scaling.short)} short and {len(scaling.long)} long divisors; give {dim // 2} of each"
        )


Angles = tuple[Float[Array, "*M half"], Float[Array, "*M half"]]
"""Cosines and sines of every position's rotations."""


def rotary_angles(rotary: Rotary, head_dim: int, positions: Int[Array, "*N"], reach: Int[Array, "*R"]) -> Angles:
    """Cosines and sines for absolute ``positions``, in float32.

    Args:
      rotary: the scheme.
      head_dim: width of a head.
      positions: absolute positions, from 0.
      reach: how many positions the sequence has when these tokens are read; same rank as ``positions``.  It decides
        for the scalings whose frequencies depend on the length, and is a sequence's own: what else is in the batch
        changes nothing.

    Returns:
      Two arrays [*N, half].
    """
    frequencies = jnp.asarray(rotary.scaling.frequencies(rotary.theta, rotary.dim(head_dim), reach), jnp.float32)
    angles = positions[..., None].astype(jnp.float32) * _like(frequencies, positions.ndim)
    magnitude = rotary.scaling.magnitude
    # Two trips of a loop: XLA cannot fuse what a loop makes into its readers.  A plain cosine it computes again for
    # every layer, sample and head, ten times the cost of turning them.
    turn = jax.lax.map(lambda sine: jnp.where(sine, jnp.sin(angles), jnp.cos(angles)), jnp.array([False, True]))
    return turn[0] * magnitude, turn[1] * magnitude


def _like(vectors: Array, leading: int) -> Array:
    """``vectors`` with unit axes in front, up to ``leading`` of them."""
    return vectors.reshape((1,) * (leading + 1 - vectors.ndim) + vectors.shape)


def rotate(vectors: Float[Array, "*N heads dim"], angles: Angles) -> Float[Array, "*N heads dim"]:
    """Turns each head's vectors by their position's angles; entries beyond the rotated fraction stay."""
    cos, sin = (jnp.expand_dims(part, -2).astype(vectors.dtype) for part in angles)
    half, dim = cos.shape[-1], vectors.shape[-1]
    first, second, rest = jnp.split(vectors, (half, 2 * half), axis=-1)

    def place(part, start):
        return jnp.pad(part, [(0, 0)] * (part.ndim - 1) + [(start, dim - start - part.shape[-1])])

    # A sum of padded parts is one vectorised loop; a concatenation takes the CPU backend four times as long.
    turned = place(first * cos - second * sin, 0) + place(second * cos + first * sin, half)
    return turned + place(rest, 2 * half) if rest.shape[-1] else turned
