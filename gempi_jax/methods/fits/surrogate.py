"""The clipped surrogate of PPO as a fit: ratios of tokens or of whole completions, averaged as a method says."""

import dataclasses
import enum
from collections.abc import Mapping

import jax.numpy as jnp

from gempi_jax.contracts import Evaluation, LossOutput, Metric, Samples, Target
from gempi_jax.em.averages import PER_TERM, Average
from gempi_jax.losses import clip_indicators, clipped_surrogate, log_ratios
from gempi_jax.losses.surrogate import Epsilon
from gempi_jax.numerics import k3, reductions
from gempi_jax.types import Array


class Ratio(enum.Enum):
    """Of what pi_theta / pi_old is taken."""

    TERM = "term"
    EXAMPLE = "example"


@dataclasses.dataclass(frozen=True)
class ClippedSurrogate:
    """-min(r A, clip(r, 1 - eps_low, 1 + eps_high) A), section 4.

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

    def examples(self, samples: Samples, policies: Mapping[str, Array], target: Target) -> dict[str, Array]:
        """Nothing beside the advantages of ``Signed()``."""
        if "advantages" not in target.examples:
            raise ValueError("ClippedSurrogate reads advantages: give GempiSpec(weighting=Signed()).")
        return {}

    def loss(self, examples: Mapping[str, Array], evaluation: Evaluation) -> LossOutput:
        """The surrogate's share of a part; what has no weight, as where nothing is told, counts in the mean alone."""
        mask, counts = evaluation.mask, evaluation.counts
        advantages = reductions.detach(jnp.where(examples["weights"] != 0, examples["advantages"], 0.0))
        ratios = log_ratios(evaluation.log_probs, evaluation.old_log_probs, where=mask)
        kl = Metric(jnp.sum(k3(jnp.zeros_like(ratios), ratios), where=mask), jnp.sum(mask).astype(jnp.float32))
        if self.of is Ratio.EXAMPLE:
            ratios, mask = jnp.sum(ratios, axis=-1), jnp.any(mask, axis=-1)
        terms = clipped_surrogate(ratios, advantages, self.epsilon, where=mask)
        if self.of is Ratio.EXAMPLE:
            loss = jnp.sum(terms) / jnp.maximum(counts.examples, 1.0)
        else:
            loss = self.average(terms, mask, counts)
        clipped = clip_indicators(ratios, advantages, self.epsilon, where=mask)
        number = jnp.sum(mask).astype(jnp.float32)
        metrics = {
            f"clip_ratio/{side}": Metric(jnp.sum(values).astype(jnp.float32), number)
            for side, values in clipped._asdict().items()
        }
        return LossOutput(loss, reductions.detach(metrics | {"approx_kl": kl}))
