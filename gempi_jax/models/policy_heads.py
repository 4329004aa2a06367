"""From features to a distribution over actions; the kernels start small, so that a fresh policy prefers nothing."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gempi_jax.models.distributions import Categorical, Gaussian, TanhGaussian
from gempi_jax.numerics.checks import positive, require
from gempi_jax.types import Array

KERNEL = nn.initializers.orthogonal(0.01)


class CategoricalHead(nn.Module):
    """softmax(W x + b) over ``num_actions``, in float32."""

    num_actions: int

    @nn.compact
    def __call__(self, features: Float[Array, "*N D"]) -> Categorical:
        """The policy at each state."""
        return Categorical.of_logits(_dense(self.num_actions, "logits")(features.astype(jnp.float32)))


class GaussianHead(nn.Module):
    """A mean that is linear in the features, and standard deviations that are, or are parameters.

    scale = minimum + (initial - minimum) softplus(s) / softplus(0), with s = 0 at the start.

    Attributes:
      size: A, entries of an action.
      initial_scale: standard deviation at the start.
      minimum_scale: below which it cannot fall.
      by_state: whether it depends on the state, as in V-MPO and MPO; else one number for each entry.
      mean_map: applied to the mean, such as ``jnp.tanh``.

    Raises:
      ValueError: scales that leave nothing between them.
    """

    size: int
    initial_scale: float = 1.0
    minimum_scale: float = 1e-3
    by_state: bool = True
    mean_map: Callable[[Array], Array] | None = None

    def __post_init__(self):
        positive(self.minimum_scale, "GaussianHead: minimum_scale", "a standard deviation")
        require(
            self.initial_scale > self.minimum_scale,
            f"GaussianHead: initial_scale {self.initial_scale} is not above minimum_scale {self.minimum_scale}.",
        )
        super().__post_init__()

    @nn.compact
    def __call__(self, features: Float[Array, "*N D"]) -> Gaussian:
        """The policy at each state."""
        features = features.astype(jnp.float32)
        mean = _dense(self.size, "mean")(features)
        mean = mean if self.mean_map is None else self.mean_map(mean)
        if self.by_state:
            raw = _dense(self.size, "scale")(features)
        else:
            raw = self.param("scale", nn.initializers.zeros_init(), (self.size,))
            raw = jnp.broadcast_to(raw.reshape((1,) * (mean.ndim - 1) + (-1,)), mean.shape)
        spread = (self.initial_scale - self.minimum_scale) / np.log(2.0)
        return Gaussian(mean, self.minimum_scale + spread * jax.nn.softplus(raw))


class TanhGaussianHead(nn.Module):
    """A :class:`GaussianHead` squashed into finite bounds.

    Attributes:
      size: A, entries of an action.
      low, high: bounds, one for all or one for each.
      initial_scale, minimum_scale, by_state: of the Gaussian.

    Raises:
      ValueError: bounds that are infinite, or out of order.
    """

    size: int
    low: float | tuple[float, ...] = -1.0
    high: float | tuple[float, ...] = 1.0
    initial_scale: float = 1.0
    minimum_scale: float = 1e-3
    by_state: bool = True

    def __post_init__(self):
        low, high = np.broadcast_arrays(np.asarray(self.low, np.float64), np.asarray(self.high, np.float64))
        require(
            bool(np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()),
            f"TanhGaussianHead: low {self.low} and high {self.high}; give finite bounds, low below high, or use "
            "GaussianHead.",
        )
        super().__post_init__()

    @nn.compact
    def __call__(self, features: Float[Array, "*N D"]) -> TanhGaussian:
        """The policy at each state."""
        base = GaussianHead(self.size, self.initial_scale, self.minimum_scale, self.by_state, name="gaussian")(features)
        # numpy broadcasts a number or [A] to any shape.
        low, high = (jnp.asarray(np.broadcast_to(np.float32(x), base.mean.shape)) for x in (self.low, self.high))
        return TanhGaussian(base, low, high)


def _dense(features: int, name: str) -> nn.Dense:
    return nn.Dense(features, kernel_init=KERNEL, name=name)


__all__ = ["CategoricalHead", "GaussianHead", "TanhGaussianHead"]
