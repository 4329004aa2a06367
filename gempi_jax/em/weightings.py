"""Weights that advantages have without one target distribution to be fitted.

Each takes the tuple, duals, samples and the cleaned batch, and returns examples, the dual's loss and ``estep/*``.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.contracts import Samples
from gempi_jax.em import mixture
from gempi_jax.em.batch import Batch
from gempi_jax.em.diagnostics import Scoped, scoped
from gempi_jax.em.metrics import anchor_metrics, sample_metrics
from gempi_jax.em.spec import GempiSpec
from gempi_jax.numerics import reductions
from gempi_jax.numerics.masked import real, telling
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array, Duals

Weighted = tuple[dict[str, Array], Float[Array, ""], dict[str, Array]]


def signed(spec: GempiSpec, duals: Duals, samples: Samples, batch: Batch, axis_name: AxisName) -> Weighted:
    """w_i = A_i / N over the N real samples, those that tell nothing included: the mean of A_i grad log pi(y_i)."""
    weights = jnp.where(batch.where, batch.advantages, 0.0) / jnp.maximum(batch.number, 1.0)
    return {"weights": weights}, jnp.zeros(()), _sides(spec, batch, weights, axis_name)


def equal(spec: GempiSpec, duals: Duals, samples: Samples, batch: Batch, axis_name: AxisName) -> Weighted:
    """w_i = 1/N over the N real samples, 0 for those that tell nothing."""
    weights = batch.where.astype(jnp.float32) / jnp.maximum(batch.number, 1.0)
    return {"weights": weights}, jnp.zeros(()), _sides(spec, batch, weights, axis_name)


def compared(spec: GempiSpec, duals: Duals, samples: Samples, batch: Batch, axis_name: AxisName) -> Weighted:
    """w_i = 1/P for the samples of each of the P groups that tell something."""
    weights = batch.where.astype(jnp.float32) * _share(batch, axis_name)
    return {"weights": weights}, jnp.zeros(()), _sides(spec, batch, weights, axis_name)


def paired(spec: GempiSpec, duals: Duals, samples: Samples, batch: Batch, axis_name: AxisName) -> Weighted:
    """1/P for the best and -1/P for the worst sample of each of the P groups that tell something; the first of ties."""
    best = _first_largest(jnp.where(batch.where, batch.advantages, -jnp.inf))
    worst = _first_largest(jnp.where(batch.where, -batch.advantages, -jnp.inf))
    weights = jnp.where(batch.where, best.astype(jnp.float32) - worst.astype(jnp.float32), 0.0)
    weights = weights * _share(batch, axis_name)
    return {"weights": weights}, jnp.zeros(()), _sides(spec, batch, weights, axis_name)


def two_sets(spec: GempiSpec, duals: Duals, samples: Samples, batch: Batch, axis_name: AxisName) -> Weighted:
    """alpha times the mean over the better set of a scope, less (1 - alpha) times that over the worse set."""
    options = {"axis": spec.scope_axis, "axis_name": axis_name}
    equal = jnp.zeros_like(batch.advantages)
    better, worse = (
        scoped(equal, where=batch.where & side, **options).weights
        for side in (batch.advantages > 0, batch.advantages < 0)
    )
    weights = spec.weighting.alpha * better - (1.0 - spec.weighting.alpha) * worse
    return {"weights": weights}, jnp.zeros(()), _sides(spec, batch, weights, axis_name)


def opposed(spec: GempiSpec, duals: Duals, samples: Samples, batch: Batch, axis_name: AxisName) -> Weighted:
    """w+ - w-, the weights (23) of the target for A and of that for -A; their sum over each scope is 0."""
    prices = jnp.asarray(spec.prices, jnp.float32)

    def target(advantages: Float[Array, "*E"]) -> Scoped:
        options = {"where": batch.where, "axis": spec.scope_axis, "axis_name": axis_name}
        log_weights, _ = mixture.relative_log_weights(advantages, batch.log_ratios, prices, **options)
        return scoped(log_weights, **options)

    better, worse = target(batch.advantages), target(-batch.advantages)
    weights, kls = better.weights - worse.weights, better.kl(batch.log_ratios)
    metrics = {
        **_sides(spec, batch, weights, axis_name),
        **anchor_metrics(spec, prices, kls, kls),
        "temperature": jnp.sum(prices),
    }
    return {"weights": weights}, jnp.zeros(()), metrics


def _sides(spec: GempiSpec, batch: Batch, weights: Float[Array, "*E"], axis_name: AxisName) -> dict[str, Array]:
    """Of |w| scaled to sum to 1 what is said of a target's weights; and the shares of the samples above and below 0."""
    sizes, number = jnp.abs(weights), jnp.maximum(batch.number, 1.0)
    total = reductions.sum(sizes, axis_name=axis_name)
    shares = sizes / jnp.where(total > 0, total, 1.0)
    above, below = (reductions.count(side, axis_name=axis_name) / number for side in (weights > 0, weights < 0))
    metrics = sample_metrics(spec, batch, jnp.zeros_like(weights), shares, weights != 0, axis_name)
    # No target is estimated by samples of another distribution.
    del metrics["truncation_mass"], metrics["log_partition_bias"]
    return metrics | {"positive_fraction": above, "negative_fraction": below}


def by_reference(samples: Samples) -> Bool[Array, "G K"]:
    """The samples of prompts whose rewards, their own and those of the reference's samples, are not all equal.

    Raises:
      ValueError: samples without either.
    """
    if samples.rewards is None or samples.reference_rewards is None:
        raise ValueError(
            "Samples.rewards or Samples.reference_rewards is None: rewards are compared with those of samples of "
            "pi_ref; give both, as Needs.reference_samples says."
        )
    mask = real(samples.rewards, samples.mask)
    rewards = jnp.concatenate([samples.rewards, samples.reference_rewards], axis=-1)
    where = jnp.concatenate([mask, jnp.ones(samples.reference_rewards.shape, bool)], axis=-1)
    tells = telling(rewards, where=where, axis=-1)
    return mask & jnp.any(tells, axis=-1, keepdims=True)


def _first_largest(values: Float[Array, "G K"]) -> Bool[Array, "G K"]:
    return jax.nn.one_hot(jnp.argmax(values, axis=-1), values.shape[-1], dtype=bool)


def _share(batch: Batch, axis_name: AxisName) -> Float[Array, ""]:
    """1/P; the samples that tell nothing are not in ``batch.where``, and no group with one alone tells anything."""
    groups = reductions.count(jnp.any(batch.where, axis=-1), axis_name=axis_name)
    return 1.0 / jnp.maximum(groups, 1).astype(jnp.float32)
