"""PopArt: a value head that learns normalised returns while its outputs stay what they were (van Hasselt et al. 2016).

V = scale n + mean with n = w h + b.  When the statistics of the returns move, w and b move against them, so that every
V is preserved: the head learns at one pace whatever the returns' size, and nothing jumps.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.numerics import reductions
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array, Params


class PopArt(NamedTuple):
    """Moving statistics of the returns; a part of ``TrainState.world``.

    Attributes:
      mean: mu.
      variance: nu - mu^2, kept centred, for the difference of the moments cancels where |mu| is large.
    """

    mean: Float[Array, ""]
    variance: Float[Array, ""]

    @classmethod
    def initial(cls) -> "PopArt":
        """Mean 0, variance 1."""
        return cls(jnp.zeros((), jnp.float32), jnp.ones((), jnp.float32))

    @property
    def scale(self) -> Float[Array, ""]:
        """sigma, kept within [1e-4, 1e6] as published."""
        return jnp.clip(jnp.sqrt(self.variance), 1e-4, 1e6)

    def normalize(self, returns: Float[Array, "*E"]) -> Float[Array, "*E"]:
        """(G - mu) / sigma: what the head is to learn."""
        return (returns - self.mean) / self.scale

    def denormalize(self, values: Float[Array, "*E"]) -> Float[Array, "*E"]:
        """V of the head's normalised outputs, in units of return."""
        return self.scale * values + self.mean

    def updated(
        self,
        returns: Float[Array, "*E"],
        step_size: float = 3e-4,
        *,
        where: Bool[Array, "*E"] | None = None,
        axis_name: AxisName = None,
    ) -> "PopArt":
        """mu <- (1 - beta) mu + beta mean(G), nu <- (1 - beta) nu + beta mean(G^2), with the variance in centred form.

        var <- (1 - beta) var + beta var(G) + beta (1 - beta) (mean(G) - mu)^2; nothing moves where nothing is real.

        Args:
          returns: G of a batch.
          step_size: beta.
          where: which are real.
          axis_name: mapped axes over which the batch is spread.
        """
        options = {"where": where, "axis_name": axis_name}
        mean = reductions.mean(returns, **options)
        spread = reductions.mean(jnp.square(returns - mean), **options)
        real = jnp.ones(returns.shape, bool) if where is None else where
        beta = jnp.where(reductions.count(real, axis_name=axis_name) > 0, step_size, 0.0)
        shift = mean - self.mean
        variance = (1.0 - beta) * self.variance + beta * spread + beta * (1.0 - beta) * jnp.square(shift)
        return PopArt(self.mean + beta * shift, variance)


class PopArtHead(nn.Module):
    """n = w h + b, in float32: the normalised value."""

    @nn.compact
    def __call__(self, features: Float[Array, "*N D"]) -> Float[Array, "*N"]:
        """The normalised value of each state; :meth:`PopArt.denormalize` makes V of it."""
        head = nn.Dense(1, kernel_init=nn.initializers.normal(0.01), name="value")
        return head(features.astype(jnp.float32))[..., 0]


def preserve_outputs(params: Params, old: PopArt, new: PopArt) -> Params:
    """The parameters of a :class:`PopArtHead` that give the same V under ``new`` as ``params`` do under ``old``.

    w' = w sigma / sigma', b' = (sigma b + mu - mu') / sigma'.

    Args:
      params: of the head, ``{"value": {"kernel": [D, 1], "bias": [1]}}``.
      old: statistics before.
      new: statistics after.
    """
    value = params["value"]
    bias = (old.scale * value["bias"] + (old.mean - new.mean)) / new.scale
    return {**params, "value": {**value, "kernel": value["kernel"] * (old.scale / new.scale), "bias": bias}}


__all__ = ["PopArt", "PopArtHead", "preserve_outputs"]
