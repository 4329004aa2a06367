"""Dropout whose random numbers cost little: one byte for each entry, read together with the next one's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.types import Array


def keep_mask(key: Array, rate: float, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    """True with probability 1 - rate, to within 1 / 65536; four entries share one 32-bit word of the generator.

    The next entry's byte decides one case in 256, which is where a rate between two multiples of 1 / 256 is made up:
    two neighbours are as good as independent.
    """
    size = 1
    for length in shape:
        size *= length
    words = jax.random.bits(key, (-(-size // 4),), jnp.uint32)
    octets = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)
    numbers = 256 * octets.astype(jnp.uint16) + jnp.roll(octets, -1)
    return (numbers[:size] >= jnp.uint16(drop_count(rate))).reshape(shape)


def drop_count(rate: float) -> int:
    """How many of 65536 numbers mean "drop": the nearest to ``rate``, at least one and never all."""
    return min(max(round(rate * 65536), 1), 65535)


def drop(key: Array, rate: float, inputs: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """Sets entries to 0 at ``rate`` and scales the rest so that the mean stays.

    The rate is rounded to a multiple of 1 / 65536 and the scale is that rounded rate's, so the mean is exact.
    """
    keep = keep_mask(key, rate, inputs.shape)
    scale = 1.0 / (1.0 - drop_count(rate) / 65536.0)
    return jnp.where(keep, inputs * jnp.asarray(scale, inputs.dtype), jnp.zeros((), inputs.dtype))


class Dropout(nn.Module):
    """:func:`drop` with keys from "dropout"."""

    rate: float

    @nn.compact
    def __call__(self, inputs: Float[Array, "*N"], *, deterministic: bool = True) -> Float[Array, "*N"]:
        """``inputs`` unchanged when ``deterministic`` or at rate 0."""
        if deterministic or self.rate == 0.0:
            return inputs
        return drop(self.make_rng("dropout"), self.rate, inputs)
