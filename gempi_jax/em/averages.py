"""Over what the terms of a loss are averaged: an explicit choice, since the published ones differ by the lengths.

Sums are divided by the counts of the whole update, so that parts add up.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.contracts import Counts
from gempi_jax.numerics.checks import require
from gempi_jax.types import Array


@dataclasses.dataclass(frozen=True)
class PerTerm:
    """All terms of the update alike: the longer an example, the more it counts (DAPO, PPO, D_M of V-MPO)."""

    def __call__(self, terms: Float[Array, "*E L"], mask: Bool[Array, "*E L"], counts: Counts) -> Float[Array, ""]:
        """This part's share of the mean over all terms."""
        return jnp.sum(terms, where=mask) / jnp.maximum(counts.terms, 1.0)


@dataclasses.dataclass(frozen=True)
class PerExample:
    """The mean of each example's mean: a term of a short example counts more than one of a long one (GRPO)."""

    def __call__(self, terms: Float[Array, "*E L"], mask: Bool[Array, "*E L"], counts: Counts) -> Float[Array, ""]:
        """This part's share of the mean over examples."""
        means = jnp.sum(terms, axis=-1, where=mask) / jnp.maximum(jnp.sum(mask, axis=-1), 1).astype(terms.dtype)
        return jnp.sum(means) / jnp.maximum(counts.examples, 1.0)


@dataclasses.dataclass(frozen=True)
class PerLimit:
    """The sum over terms divided by a constant for each example: no length counts more (Dr. GRPO).

    Attributes:
      limit: the longest that an example can be, terms.
    """

    limit: int

    def __post_init__(self):
        require(self.limit >= 1, f"PerLimit.limit is {self.limit}: give the number of terms that an example may have.")

    def __call__(self, terms: Float[Array, "*E L"], mask: Bool[Array, "*E L"], counts: Counts) -> Float[Array, ""]:
        """This part's share of the sum over terms, over limit times the number of examples."""
        return jnp.sum(terms, where=mask) / jnp.maximum(counts.examples * self.limit, 1.0)


Average = PerTerm | PerExample | PerLimit
"""How terms become a loss."""

PER_TERM = PerTerm()
