"""The one E-step: detached weights on samples, from any setting of the tuple."""

import math

import jax.numpy as jnp
from jaxtyping import Float

from gempi_jax.contracts import Metric, Samples, Target
from gempi_jax.em.batch import check, clean
from gempi_jax.em.choices import Compared, Equal, Opposed, Paired, Scope, Signed, Tilted, TwoSets
from gempi_jax.em.spec import GempiSpec
from gempi_jax.em.tilted import tilted
from gempi_jax.em.transforms import grouped
from gempi_jax.em.weightings import by_reference, compared, equal, opposed, paired, signed, two_sets
from gempi_jax.numerics import reductions
from gempi_jax.numerics.masked import telling
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array, Duals

WEIGHTINGS = {
    Tilted: tilted,
    Signed: signed,
    Equal: equal,
    TwoSets: two_sets,
    Opposed: opposed,
    Paired: paired,
    Compared: compared,
}
"""What computes the weights of each kind of weighting."""


def _prepared(spec: GempiSpec, samples: Samples, axis_name: AxisName) -> Samples:
    """Advantages by the transform; where groups are compared, with their examples in one axis."""
    if spec.transform.by_group:
        rewards, mask = grouped(samples)
        tells = telling(rewards, where=mask, axis=-1).reshape(samples.advantages.shape)
        samples = samples._replace(signal=tells if samples.signal is None else tells & samples.signal)
    elif spec.transform.from_rewards:
        # Judged by the rewards: what the world's baseline compares is not what is compared here.
        samples = samples._replace(signal=None)
    if spec.by_reference:
        samples = samples._replace(signal=by_reference(samples))
    samples = samples._replace(advantages=reductions.detach(spec.transform(samples, axis_name)))
    if spec.counts_samples:
        samples = samples._replace(sampler_log_probs=jnp.zeros_like(samples.sampler_log_probs))
    if spec.scope is Scope.GROUP:
        shape = samples.advantages.shape
        shape = shape[0], math.prod(shape[1:])
        flat = {n: None if x is None else x.reshape(shape) for n, x in per_example(samples).items()}
        samples = samples._replace(anchor_log_probs=samples.anchor_log_probs.reshape(-1, *shape), **flat)
    return samples


def per_example(samples: Samples) -> dict[str, Array | None]:
    """The fields with one number for each example."""
    names = "advantages", "sampler_log_probs", "mask", "rewards", "signal"
    return {name: getattr(samples, name) for name in names}


def _importance(spec: GempiSpec, weights: Float[Array, "*E"]) -> Float[Array, "G"] | None:
    """Each unit's share of the weight; ``None`` where all units weigh the same, so that none can be left out."""
    if spec.every_unit:
        return None
    return jnp.sum(jnp.abs(weights).reshape(weights.shape[0], -1), axis=1)


def e_step(spec: GempiSpec, duals: Duals, samples: Samples, *, axis_name: AxisName = None) -> Target:
    """The E-step (22)-(25) and (27)-(28): transform, filter, temperatures, weights, dual, diagnostics.

    Args:
      spec: the tuple.
      duals: ``{"temperature": [m]}`` when temperatures are dual-adaptive, else unread.
      samples: a global batch [*E], or the local part of one spread over ``axis_name``.  By groups all that follows
        axis 0 is a group.  Samples that are not a number, or beyond 1e15, are left out and counted in
        ``estep/invalid_samples``; temperatures among the duals that are not positive numbers become 1e-8 and are
        counted in ``estep/invalid_duals``.  Samples that tell nothing apart have no weight, see
        :mod:`gempi_jax.em.batch`; ``estep/flat_batch`` and ``estep/flat_groups``, a share, count them.
      axis_name: mapped axes over which the leading axis is spread.

    Returns:
      The target. ``dual_loss`` has the gradient eps - KL-hat in the duals and none in anything else; a batch
      without a signal has weights and a dual loss of 0.

    Raises:
      ValueError: where shapes disagree.
    """
    check(spec, samples)
    shape = samples.advantages.shape
    samples = _prepared(spec, samples, axis_name)
    batch = clean(spec, samples, axis_name)
    examples, dual_loss, metrics = WEIGHTINGS[type(spec.weighting)](spec, duals, samples, batch, axis_name)
    # Not even the weight of one sample: none tells anything, or none is possible.
    signal = reductions.count(examples["weights"] != 0, axis_name=axis_name) > 0
    examples = {name: reductions.detach(values).reshape(shape) for name, values in examples.items()}
    metrics = {f"estep/{name}": Metric.of(value) for name, value in reductions.detach(metrics).items()}
    dual_loss = jnp.where(signal, dual_loss, 0.0)
    return Target(examples, dual_loss, metrics, signal, _importance(spec, examples["weights"]))
