"""Weights that come from the advantages alone, without a target distribution; some are negative."""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.contracts import Samples
from gempi_jax.em.batch import Batch
from gempi_jax.em.choices import Contrast, Equal, Signed, TopK, TwoSets
from gempi_jax.em.filtering import best_of_groups
from gempi_jax.em.mixture import normalize_weights
from gempi_jax.numerics import reductions
from gempi_jax.numerics.masked import real, telling
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array


def by_advantage(
    weighting: Signed | Equal | TwoSets | Contrast, batch: Batch, axis_name: AxisName
) -> dict[str, Float[Array, "*E"]]:
    """The weights; 0 where nothing is told."""
    advantages = jnp.where(batch.where, batch.advantages, 0.0)
    if isinstance(weighting, Signed):
        # Over all real samples, those that tell nothing included: the mean of A_i grad log pi(y_i).
        weights = advantages / jnp.maximum(batch.number, 1.0)
    elif isinstance(weighting, Equal):
        weights = batch.where.astype(jnp.float32) / jnp.maximum(batch.number, 1.0)
    elif isinstance(weighting, Contrast):
        tilts = advantages / weighting.temperature
        options = {"where": batch.where, "axis_name": axis_name}
        weights = normalize_weights(tilts, **options) - normalize_weights(-tilts, **options)
    else:
        weights = _two_sets(weighting, batch, axis_name)
    return {"weights": weights}


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
