"""Attention over a memory and a chunk by content and by distance (Dai et al. 2019, section 3.3)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.models.dense import Dense
from gempi_jax.types import Array

KERNEL = nn.initializers.xavier_uniform()


def sinusoids(distances: Float[Array, "R"], width: int) -> Float[Array, "R D"]:
    """R_d = [sin(d w_1) ... cos(d w_1) ...] with w_k = 10000^(-2k / D), k = 0 ... D/2 - 1."""
    rates = 10000.0 ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angles = distances[:, None] * rates[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def skew(scores: Float[Array, "B H T R"]) -> Float[Array, "B H T N"]:
    """From scores by distance, farthest first, to scores by step: column r of query i moves to column i + r.

    R = M + 1 distances become N = M + T columns; those out of reach hold zeros or what belongs to other queries, and
    have to be masked.
    """
    *lead, steps, reach = scores.shape
    columns = reach - 1 + steps
    # Rows of one column more than wanted, read in rows of as many as wanted: each starts one further to the left.
    flat = jnp.pad(scores, [(0, 0)] * len(lead) + [(0, 0), (0, steps)]).reshape(*lead, -1)
    return flat[..., : steps * columns].reshape(*lead, steps, columns)


class RelativeAttention(nn.Module):
    """softmax_j [(q_i + u) k_j + (q_i + v) W_R R_{i-j}] / sqrt(d) over the visible steps j, times values, projected.

    Attributes:
      num_heads: H.
      head_dim: d.
      dtype: of the computation; the softmax is float32.
    """

    num_heads: int
    head_dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "B T D"],
        context: Float[Array, "B N D"],
        mask: Bool[Array, "B T N"],
    ) -> Float[Array, "B T D"]:
        """Attends from the last T of the N = M + T steps in ``context`` to those of distance 0 ... M.

        Args:
          queries: the chunk.
          context: memory and chunk, oldest first.
          mask: which steps each query may see; none further than M and at least one.
        """
        batch, steps, width = queries.shape
        reach = context.shape[1] - steps + 1
        inner = self.num_heads * self.head_dim

        def dense(features, name):
            return Dense(features, dtype=self.dtype, kernel_init=KERNEL, name=name)

        def heads(x):
            return x.reshape(*x.shape[:-1], self.num_heads, self.head_dim)

        def bias(name):
            value = self.param(name, nn.initializers.zeros_init(), (self.num_heads, self.head_dim))
            return value.astype(self.dtype)[None, None]

        q = heads(dense(inner, "query")(queries))
        k, v = jnp.split(dense(2 * inner, "key_value")(context), 2, axis=-1)
        distances = jnp.arange(reach - 1, -1, -1, dtype=jnp.float32)
        r = heads(dense(inner, "relative")(sinusoids(distances, width)))

        by_content = jnp.einsum("bihd,bjhd->bhij", q + bias("content_bias"), heads(k))
        by_distance = skew(jnp.einsum("bihd,rhd->bhir", q + bias("distance_bias"), r))
        scores = (by_content + by_distance).astype(jnp.float32) * self.head_dim**-0.5
        weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -jnp.inf), axis=-1).astype(self.dtype)
        attended = jnp.einsum("bhij,bjhd->bihd", weights, heads(v))
        return dense(width, "output")(attended.reshape(batch, steps, inner))
