"""What a policy does in a state: distributions over actions, as pytrees.

All have ``log_prob(action)``, ``entropy()``, ``sample(key)``, ``mode()`` and ``kl(other)``: KL(self || other) by part,
as ``Evaluation.divergence`` wants it, ``{"kl": ...}``, or ``{"mean": ..., "covariance": ...}`` of Gaussians.  Nats.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Key

from gempi_jax.numerics import categorical_entropy, categorical_kl, gaussian_kl
from gempi_jax.types import Array

NODES, MASSES = np.polynomial.hermite_e.hermegauss(48)
"""Where expectations under a standard normal are evaluated, and with which weights (times sqrt(2 pi))."""

INSIDE = 1.0 - 1e-6
"""Tanh of what is sampled is kept this close to -1 and 1, so that its inverse is finite in float32."""


class Categorical(NamedTuple):
    """Over 0 ... V - 1.

    Attributes:
      log_probs: normalised.
    """

    log_probs: Float[Array, "*E V"]

    @classmethod
    def of_logits(cls, logits: Float[Array, "*E V"]) -> "Categorical":
        """softmax(logits), in float32."""
        return cls(jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1))

    def log_prob(self, action: Int[Array, "*E"]) -> Float[Array, "*E"]:
        """log pi(a)."""
        return jnp.take_along_axis(self.log_probs, action[..., None], axis=-1)[..., 0]

    def entropy(self) -> Float[Array, "*E"]:
        """S."""
        return categorical_entropy(self.log_probs)

    def sample(self, key: Key[Array, ""]) -> Int[Array, "*E"]:
        """One action each."""
        return jax.random.categorical(key, self.log_probs, axis=-1).astype(jnp.int32)

    def mode(self) -> Int[Array, "*E"]:
        """The likeliest action."""
        return jnp.argmax(self.log_probs, axis=-1).astype(jnp.int32)

    def kl(self, other: "Categorical") -> dict[str, Float[Array, "*E"]]:
        """KL(self || other), exact."""
        return {"kl": categorical_kl(self.log_probs, other.log_probs)}


class Gaussian(NamedTuple):
    """Independent normal entries.

    Attributes:
      mean, scale: of each; the scale is the standard deviation.
    """

    mean: Float[Array, "*E A"]
    scale: Float[Array, "*E A"]

    def log_prob(self, action: Float[Array, "*E A"]) -> Float[Array, "*E"]:
        """log of the density, summed over the entries."""
        terms = 0.5 * jnp.square((action - self.mean) / self.scale) + jnp.log(self.scale)
        return -jnp.sum(terms + 0.5 * math.log(2 * math.pi), axis=-1)

    def entropy(self) -> Float[Array, "*E"]:
        """Differential, of either sign."""
        return jnp.sum(jnp.log(self.scale) + 0.5 * math.log(2 * math.pi * math.e), axis=-1)

    def sample(self, key: Key[Array, ""]) -> Float[Array, "*E A"]:
        """One action each."""
        return self.mean + self.scale * jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def mode(self) -> Float[Array, "*E A"]:
        """The mean."""
        return self.mean

    def kl(self, other: "Gaussian") -> dict[str, Float[Array, "*E"]]:
        """Decoupled into the shift of the mean, with self's covariance, and the change of the covariance."""
        mean, covariance = gaussian_kl(self.mean, self.scale, other.mean, other.scale)
        return {"mean": mean, "covariance": covariance}


class TanhGaussian(NamedTuple):
    """low + (high - low) (1 + tanh u) / 2 with u from ``base``.

    Attributes:
      base: of u.
      low, high: bounds of the actions, finite; beside each action of ``base``, so that all leaves are cut alike, or
        once for all of them, [A].
    """

    base: Gaussian
    low: Float[Array, "*E A"]
    high: Float[Array, "*E A"]

    def log_prob(self, action: Float[Array, "*E A"]) -> Float[Array, "*E"]:
        """log of the density of an action within the bounds."""
        low, high = self._bounds(action)
        unit = jnp.clip((2.0 * action - low - high) / (high - low), -INSIDE, INSIDE)
        u = jnp.arctanh(unit)
        return self.base.log_prob(u) - jnp.sum(_log_slope(u), axis=-1) - self._log_half_width()

    def entropy(self) -> Float[Array, "*E"]:
        """Differential: that of u plus E[log |da/du|], by quadrature, for entries are independent."""
        nodes = jnp.asarray(NODES, jnp.float32).reshape((1,) * self.base.mean.ndim + (-1,))
        masses = jnp.asarray(MASSES / math.sqrt(2 * math.pi), jnp.float32).reshape(nodes.shape)
        slopes = _log_slope(self.base.mean[..., None] + self.base.scale[..., None] * nodes)
        return self.base.entropy() + jnp.sum(slopes * masses, axis=(-2, -1)) + self._log_half_width()

    def sample(self, key: Key[Array, ""]) -> Float[Array, "*E A"]:
        """One action each."""
        return self._image(self.base.sample(key))

    def mode(self) -> Float[Array, "*E A"]:
        """The image of u's mean: the median of each entry, which stands where the density's mode may lie at a bound."""
        return self._image(self.base.mode())

    def kl(self, other: "TanhGaussian") -> dict[str, Float[Array, "*E"]]:
        """That of the Gaussians, for the map is the same and invertible; ``other`` has the same bounds."""
        return self.base.kl(other.base)

    def _image(self, u: Float[Array, "*E A"]) -> Float[Array, "*E A"]:
        low, high = self._bounds(u)
        return 0.5 * (low + high) + 0.5 * (high - low) * jnp.clip(jnp.tanh(u), -INSIDE, INSIDE)

    def _bounds(self, like: Array) -> tuple[Array, Array]:
        """With as many axes as ``like``."""
        lead = (1,) * (like.ndim - self.low.ndim)
        return self.low.reshape(*lead, *self.low.shape), self.high.reshape(*lead, *self.high.shape)

    def _log_half_width(self) -> Array:
        """Of each action, or one for all."""
        return jnp.sum(jnp.log(0.5 * (self.high - self.low)), axis=-1)


Distribution = Categorical | Gaussian | TanhGaussian


def _log_slope(u: Array) -> Array:
    """log(1 - tanh^2 u) = 2 (log 2 - |u| - log(1 + exp(-2 |u|))), which does not cancel."""
    size = jnp.abs(u)
    return 2.0 * (math.log(2.0) - size - jnp.log1p(jnp.exp(-2.0 * size)))


__all__ = ["Categorical", "Distribution", "Gaussian", "TanhGaussian"]
