"""Weights that come from the advantages alone, without a target distribution; some are negative."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.contracts import Samples
from gempi_jax.em.batch import Batch
from gempi_jax.em.choices import Compared, Equal, Opposed, Paired, Signed, TopK, TwoSets
from gempi_jax.em.filtering import best_of_groups
from gempi_jax.em.mixture import normalize_weights
from gempi_jax.numerics import reductions
from gempi_jax.numerics.masked import real, telling
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array


def by_advantage(
    weighting: Signed | Equal | Paired | Compared | TwoSets | Opposed, batch: Batch, axis_name: AxisName
) -> dict[str, Float[Array, "*E"]]:
    """The weights; 0 where nothing is told."""
    advantages = jnp.where(batch.where, batch.advantages, 0.0)
    if isinstance(weighting, Signed):
        # Over all real samples, those that tell nothing included: the mean of A_i grad log pi(y_i).
        weights = advantages / jnp.maximum(batch.number, 1.0)
    elif isinstance(weighting, Equal):
        weights = batch.where.astype(jnp.float32) / jnp.maximum(batch.number, 1.0)
    elif isinstance(weighting, Compared):
        weights = batch.where.astype(jnp.float32) * _share(batch, axis_name)
    elif isinstance(weighting, Paired):
        weights = _paired(batch) * _share(batch, axis_name)
    elif isinstance(weighting, Opposed):
        tilts = advantages / weighting.temperature
        options = {"where": batch.where, "axis_name": axis_name}
        weights = normalize_weights(tilts, **options) - normalize_weights(-tilts, **options)
    else:
        weights = _two_sets(weighting, batch, axis_name)
    return {"weights": weights}


def _paired(batch: Batch) -> Float[Array, "G K"]:
    """+1 for the best and -1 for the worst sample of each group; of several that tie, the first."""
    best = _first_largest(jnp.where(batch.where, batch.advantages, -jnp.inf))
    worst = _first_largest(jnp.where(batch.where, -batch.advantages, -jnp.inf))
    return jnp.where(batch.where, best.astype(jnp.float32) - worst.astype(jnp.float32), 0.0)


def _two_sets(weighting: TwoSets, batch: Batch, axis_name: AxisName) -> Float[Array, "*E"]:
    """share times the mean over the best of each group, minus (1 - share) times that over its worst."""
    rule = TopK(weighting.fraction)
    best = best_of_groups(rule, batch.advantages, batch.where, None)
    # From the other end among equals, so that no sample is in both.
    backwards = (jnp.flip(x, axis=-1) for x in (-batch.advantages, batch.where))
    worst = jnp.flip(best_of_groups(rule, *backwards, None), axis=-1)

    def mean_of(chosen: Bool[Array, "*E"]) -> Float[Array, "*E"]:
        number = reductions.count(chosen, axis_name=axis_name).astype(jnp.float32)
        return chosen / jnp.maximum(number, 1.0)

    return weighting.share * mean_of(best) - (1.0 - weighting.share) * mean_of(worst)


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
