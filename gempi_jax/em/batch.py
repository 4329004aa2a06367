"""A batch as the E-step reads it: shapes that agree, no undefined number, and the samples that count."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.contracts import Samples
from gempi_jax.em import mixture
from gempi_jax.em.spec import GempiSpec, Scope, TopK
from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import LARGEST
from gempi_jax.numerics.masked import real
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array


class Batch(NamedTuple):
    """Detached samples without an undefined number, and which of them count."""

    advantages: Float[Array, "*E"]
    log_ratios: Float[Array, "m *E"]
    where: Bool[Array, "*E"]
    number: Float[Array, ""]
    invalid: Float[Array, ""]


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
    for name in ("mask", "tie_break"):
        value = getattr(samples, name)
        if value is not None and value.shape != shape:
            raise ValueError(f"{name} {value.shape} must have the advantages' shape {shape}.")
    by_group = {
        "Scope.GROUP": spec.scope is Scope.GROUP,
        "skip_flat_groups": isinstance(spec.filter, TopK) and spec.filter.skip_flat_groups,
    }
    for name, wanted in by_group.items():
        if wanted and len(shape) < 2:
            raise ValueError(f"{name} needs advantages [..., G, K] with the K samples of a group last, not {shape}.")


def clean(samples: Samples, axis_name: AxisName) -> Batch:
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
    return Batch(advantages, ratios, where, number, invalid)
