"""A batch as the E-step reads it: shapes that agree, no undefined number, and the samples that tell something.

No signal moves nothing.  Where all that is compared has one reward, a softmax over it would still be likelihood on the
policy's own samples, which narrows the policy round after round.  So a flat batch, and a flat group where the samples
of a group are compared with each other alone, is left out of the selection, the temperatures and the weights.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.contracts import Samples
from gempi_jax.em import mixture
from gempi_jax.em.choices import Scope, TopK
from gempi_jax.em.spec import GempiSpec
from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import LARGEST
from gempi_jax.numerics.masked import real, telling
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array


class Batch(NamedTuple):
    """Detached samples without an undefined number, and which of them count.

    Attributes:
      advantages: A_i.
      log_ratios: r_ij, nats.
      where: the samples that are real and tell something.
      number: of the real ones.
      metrics: counts of what is left out.
    """

    advantages: Float[Array, "*E"]
    log_ratios: Float[Array, "m *E"]
    where: Bool[Array, "*E"]
    number: Float[Array, ""]
    metrics: dict[str, Float[Array, ""]]


def check(spec: GempiSpec, samples: Samples) -> None:
    """Says at trace time which shape is wrong."""
    shape = samples.advantages.shape
    if samples.sampler_log_probs.shape != shape:
        raise ValueError(
            f"sampler_log_probs {samples.sampler_log_probs.shape} must have the advantages' shape {shape}."
        )
    expected = (len(spec.anchors), *shape)
    if samples.anchor_log_probs.shape != expected:
        raise ValueError(
            f"anchor_log_probs {samples.anchor_log_probs.shape} must be {expected}: one row for each of the anchors "
            f"{spec.policies}, in this order."
        )
    for name in ("mask", "rewards", "signal"):
        value = getattr(samples, name)
        if value is not None and value.shape != shape:
            raise ValueError(f"{name} {value.shape} must have the advantages' shape {shape}.")
    if spec.by_group and len(shape) < 2:
        compares = spec.scope if spec.scope is Scope.GROUP else spec.filter
        raise ValueError(f"{compares} needs advantages [G, K, ...], a group behind each unit of axis 0, not {shape}.")


def _signal(
    spec: GempiSpec, given: Array | None, advantages: Array, where: Array, axis_name: AxisName
) -> Bool[Array, "*E"]:
    """The real samples that tell something; all of them where nothing is compared, as among demonstrations."""
    if not spec.weighs_rewards:
        return where
    kept = where if given is None else where & given
    if spec.by_reference:
        return kept
    within = axis_name if spec.scope_axis is None else None
    kept = telling(advantages, where=kept, axis=spec.scope_axis, axis_name=within)
    if isinstance(spec.filter, TopK) and spec.filter.by_group:
        by_group = kept.shape[0], math.prod(kept.shape[1:])
        tells = telling(advantages.reshape(by_group), where=kept.reshape(by_group), axis=-1)
        kept = tells.reshape(kept.shape)
    return kept


def _left_out(where: Array, kept: Array, by_group: bool, axis_name: AxisName) -> dict[str, Array]:
    """Whether nothing tells anything, and the share of groups that do not."""
    values = {"flat_batch": (reductions.count(kept, axis_name=axis_name) == 0).astype(jnp.float32)}
    if by_group:
        there, flat = jnp.any(where, axis=-1), ~jnp.any(kept, axis=-1)
        values["flat_groups"] = reductions.mean(flat.astype(jnp.float32), where=there, axis_name=axis_name)
    return values


def _log_number(spec: GempiSpec, where: Array, axis_name: AxisName) -> Float[Array, "*E"]:
    """log k of the k samples of each scope: -log b where these are all there is."""
    within = axis_name if spec.scope_axis is None else None
    local = jnp.sum(where, axis=spec.scope_axis, keepdims=True, dtype=jnp.int32)
    number = reductions.sum(local, axis=(), axis_name=within).astype(jnp.float32)
    return jnp.broadcast_to(jnp.log(jnp.maximum(number, 1.0)), where.shape)


def clean(spec: GempiSpec, samples: Samples, axis_name: AxisName) -> Batch:
    """Masks what is padding and what is no number or too large a one; -inf of an anchor stays, it means q* = 0."""
    samples = reductions.detach(samples)
    given = real(samples.advantages, samples.mask)
    usable = (jnp.abs(samples.advantages) < LARGEST) & (jnp.abs(samples.sampler_log_probs) < LARGEST)
    usable = mixture.over_anchors(lambda kept, row: kept & (row < LARGEST), samples.anchor_log_probs, usable)
    where = given & usable
    advantages = jnp.where(where, samples.advantages, 0.0).astype(jnp.float32)
    sampler = jnp.where(where, samples.sampler_log_probs, 0.0).astype(jnp.float32)
    anchors = jnp.where(where[None], samples.anchor_log_probs, 0.0).astype(jnp.float32)
    anchors = jnp.where(anchors > -LARGEST, anchors, -jnp.inf)
    number = reductions.count(where, axis_name=axis_name).astype(jnp.float32)
    invalid = reductions.count(given & ~usable, axis_name=axis_name).astype(jnp.float32)
    ratios = mixture.anchor_log_ratios(anchors, sampler)
    # Materialised: the many sums that follow would clean the samples again in each.  The counts stay out of it, since
    # a barrier makes what is equal on all devices as local as its other operands.
    advantages, ratios, where = jax.lax.optimization_barrier((advantages, ratios, where))
    kept = _signal(spec, samples.signal, advantages, where, axis_name)
    if spec.counts_samples:
        ratios = ratios + _log_number(spec, kept, axis_name)[None]
    by_group = where.ndim > 1 and (spec.scope is Scope.GROUP or samples.signal is not None)
    metrics = {"invalid_samples": invalid, **_left_out(where, kept, by_group, axis_name)}
    return Batch(advantages, ratios, kept, number, metrics)
