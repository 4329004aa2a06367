"""Weights that advantages have without a target distribution.

Each takes the tuple, duals, samples and the cleaned batch, and returns examples, the dual's loss and ``estep/*``.
"""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.contracts import Samples
from gempi_jax.em.batch import Batch
from gempi_jax.em.spec import GempiSpec
from gempi_jax.numerics.masked import real, telling
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array, Duals

Weighted = tuple[dict[str, Array], Float[Array, ""], dict[str, Array]]


def signed(spec: GempiSpec, duals: Duals, samples: Samples, batch: Batch, axis_name: AxisName) -> Weighted:
    """w_i = A_i / N over the N real samples, those that tell nothing included: the mean of A_i grad log pi(y_i)."""
    advantages = jnp.where(batch.where, batch.advantages, 0.0)
    examples = {"weights": advantages / jnp.maximum(batch.number, 1.0), "advantages": advantages}
    return examples, jnp.zeros(()), batch.metrics


def equal(spec: GempiSpec, duals: Duals, samples: Samples, batch: Batch, axis_name: AxisName) -> Weighted:
    """w_i = 1/N over the N real samples, 0 for those that tell nothing."""
    weights = batch.where.astype(jnp.float32) / jnp.maximum(batch.number, 1.0)
    return {"weights": weights}, jnp.zeros(()), batch.metrics


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
