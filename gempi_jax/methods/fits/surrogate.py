"""The clipped surrogate of PPO as a fit: ratios of tokens or of whole completions, averaged as a method says."""

import dataclasses
import enum
from collections.abc import Mapping

import jax.numpy as jnp

from gempi_jax.contracts import Evaluation, LossOutput, Metric, Samples, Target
from gempi_jax.em.averages import PER_TERM, Average
from gempi_jax.losses import clip_indicators, clipped_surrogate, log_ratios
from gempi_jax.losses.surrogate import Epsilon, check_epsilon
from gempi_jax.numerics import k3, reductions
from gempi_jax.types import Array


class Ratio(enum.Enum):
    """Of what pi_theta / pi_old is taken."""

    TERM = "term"
    EXAMPLE = "example"


@dataclasses.dataclass(frozen=True)
class ClippedSurrogate:
    """-min(r A, clip(r, 1 - eps_low, 1 + eps_high) A), section 4, with the weights w = A / N in place of A.

    The sum over an update is divided by its share of the batch.  So updates add up to the batch, and units of weight 0
    may be left out of them; of ``PerTerm`` then up to the mean length of those that stay.

    Attributes:
      epsilon: eps, or (eps_low, eps_high).
      of: what the ratio is of, each term or the whole example.
      average: over what the terms are averaged; of whole examples, over them.
    """

    epsilon: Epsilon = 0.2
    of: Ratio = Ratio.TERM
    average: Average = PER_TERM
    policies = ()
    ratio = True
    by_group = False
    reads_values = False

    def __post_init__(self):
        check_epsilon("ClippedSurrogate", self.epsilon)

    def examples(self, samples: Samples, policies: Mapping[str, Array], target: Target) -> dict[str, Array]:
        """Nothing beside the weights."""
        return {}

    def loss(self, examples: Mapping[str, Array], evaluation: Evaluation) -> LossOutput:
        """The surrogate's share of a part; what has no weight, as where nothing is told, counts in the mean alone."""
        mask, counts, weights = evaluation.mask, evaluation.counts, examples["weights"]
        ratios = log_ratios(evaluation.log_probs, evaluation.old_log_probs, where=mask)
        kl = Metric(jnp.sum(k3(jnp.zeros_like(ratios), ratios), where=mask), jnp.sum(mask).astype(jnp.float32))
        if self.of is Ratio.EXAMPLE:
            ratios, mask = jnp.sum(ratios, axis=-1), jnp.any(mask, axis=-1)
        terms = clipped_surrogate(ratios, weights, self.epsilon, where=mask)
        if self.of is Ratio.EXAMPLE:
            loss = jnp.sum(terms)
        else:
            # A mean of A is a sum of A / N: N of the update is its number of examples.
            loss = self.average(terms, mask, counts) * counts.examples
        loss = loss / jnp.asarray(counts.share, loss.dtype)
        clipped = clip_indicators(ratios, weights, self.epsilon, where=mask)
        number = jnp.sum(mask).astype(jnp.float32)
        metrics = {
            f"clip_ratio/{side}": Metric(jnp.sum(values).astype(jnp.float32), number)
            for side, values in clipped._asdict().items()
        }
        return LossOutput(loss, reductions.detach(metrics | {"approx_kl": kl}))
