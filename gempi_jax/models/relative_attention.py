"""Attention over a memory and a chunk by content and by distance (Dai et al. 2019, section 3.3)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.models.dense import matmul
from gempi_jax.types import Array


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


class Kernels(NamedTuple):
    """What attention has learned; H heads of d entries."""

    query: Float[Array, "D H d"]
    key: Float[Array, "D H d"]
    value: Float[Array, "D H d"]
    relative: Float[Array, "D H d"]
    output: Float[Array, "H d D"]
    content_bias: Float[Array, "H d"]
    distance_bias: Float[Array, "H d"]

    def by_distance(self, reach: int) -> Float[Array, "R H d"]:
        """W_R R_d of the distances below ``reach``, farthest first."""
        table = sinusoids(jnp.arange(reach - 1, -1, -1, dtype=jnp.float32), self.relative.shape[0])
        return project(table.astype(self.relative.dtype), self.relative)


def project(inputs: Float[Array, "*N D"], kernel: Float[Array, "D H d"]) -> Float[Array, "*N H d"]:
    """inputs W, by head."""
    return matmul(inputs, kernel.reshape(kernel.shape[0], -1)).reshape(*inputs.shape[:-1], *kernel.shape[1:])


def weigh(scores: Float[Array, "B H *T N"], mask: Bool[Array, "B *T N"], head_dim: int) -> Float[Array, "B H *T N"]:
    """softmax(scores / sqrt(d)) over the visible steps, in float32 inside."""
    scaled = scores.astype(jnp.float32) * head_dim**-0.5
    return jax.nn.softmax(jnp.where(mask[:, None], scaled, -jnp.inf), axis=-1).astype(scores.dtype)


def attend(
    kernels: Kernels, queries: Float[Array, "B T D"], context: Float[Array, "B N D"], mask: Bool[Array, "B T N"]
) -> Float[Array, "B T D"]:
    """Many queries: keys and values of each step are computed once and serve all of them."""
    q = project(queries, kernels.query)
    both = jnp.concatenate([kernels.key, kernels.value], axis=1)
    k, v = jnp.split(project(context, both), 2, axis=2)
    r = kernels.by_distance(context.shape[1] - queries.shape[1] + 1)
    by_content = jnp.einsum("bihd,bjhd->bhij", q + kernels.content_bias[None, None], k)
    by_distance = skew(jnp.einsum("bihd,rhd->bhir", q + kernels.distance_bias[None, None], r))
    weights = weigh(by_content + by_distance, mask, q.shape[-1])
    read = jnp.einsum("bhij,bjhd->bihd", weights, v)
    return matmul(read.reshape(*queries.shape[:2], -1), kernels.output.reshape(-1, queries.shape[-1]))


def attend_once(
    kernels: Kernels, query: Float[Array, "B D"], context: Float[Array, "B R D"], mask: Bool[Array, "B R"]
) -> Float[Array, "B D"]:
    """One query: what :func:`attend` computes, with the products of kernels made first.

    (x W_Q)(c W_K)' = x (W_Q W_K') c', and so on: what is remembered is read as it stands, neither keys nor values are
    made of it, and the products are of parameters alone, so that a loop over steps makes them once.
    """
    width, reach = query.shape[-1], context.shape[1]
    r = kernels.by_distance(reach)
    on_content = jnp.einsum("xhd,yhd->xhy", kernels.query, kernels.key)
    on_distance = jnp.einsum("xhd,rhd->xhr", kernels.query, r)
    by_content = jnp.einsum("hd,yhd->hy", kernels.content_bias, kernels.key)
    by_distance = jnp.einsum("hd,rhd->hr", kernels.distance_bias, r)
    kernel = jnp.concatenate([on_content, on_distance], axis=-1)
    asked = project(query, kernel) + jnp.concatenate([by_content, by_distance], axis=-1)[None]
    scores = jnp.matmul(asked[..., :width], context.swapaxes(1, 2)) + asked[..., width:]
    read = jnp.matmul(weigh(scores, mask, kernels.query.shape[-1]), context)
    output = jnp.einsum("yhd,hdx->hyx", kernels.value, kernels.output)
    return matmul(read.reshape(len(query), -1), output.reshape(-1, width))


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
        kernels = self.kernels(queries.shape[-1])
        if queries.shape[1] > 1:
            return attend(kernels, queries, context, mask)
        return attend_once(kernels, queries[:, 0], context, mask[:, 0])[:, None]

    def kernels(self, width: int) -> Kernels:
        """The parameters, in the dtype of the computation."""
        heads = (self.num_heads, self.head_dim)

        def kernel(name, *shape, fan_in=(0,), fan_out=(1, 2)):
            init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=fan_in, out_axis=fan_out)
            return self.param(name, init, shape).astype(self.dtype)

        def bias(name):
            return self.param(name, nn.initializers.zeros_init(), heads).astype(self.dtype)

        inwards = (kernel(name, width, *heads) for name in ("query", "key", "value", "relative"))
        output = kernel("output", *heads, width, fan_in=(0, 1), fan_out=(2,))
        return Kernels(*inwards, output, bias("content_bias"), bias("distance_bias"))
