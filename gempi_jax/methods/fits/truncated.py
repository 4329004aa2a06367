"""Likelihood whose negative weights fade as the policy leaves what it punishes: TOPR."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp

from gempi_jax.contracts import Evaluation, LossOutput, Metric, Samples, Target
from gempi_jax.em import Reduction, weighted_nll
from gempi_jax.losses import sequence_log_ratios
from gempi_jax.numerics import reductions
from gempi_jax.types import Array


@dataclasses.dataclass(frozen=True)
class TruncatedLikelihood:
    """-sum_i w_i c_i log pi_theta(y_i), with c_i = 1 where w_i > 0 and sg[min(1, pi_theta / pi_t)] of y_i elsewhere.

    Attributes:
      reduction: sum or mean over an example's terms; the ratio is of the whole example in either case.
    """

    reduction: Reduction = Reduction.SUM
    policies = ()
    ratio = True
    by_group = False
    reads_values = False

    def examples(self, samples: Samples, policies: Mapping[str, Array], target: Target) -> dict[str, Array]:
        """Nothing beside the weights."""
        return {}

    def loss(self, examples: Mapping[str, Array], evaluation: Evaluation) -> LossOutput:
        """The share of a part."""
        ratios = sequence_log_ratios(evaluation.log_probs, evaluation.old_log_probs, where=evaluation.mask)
        kept = reductions.detach(jnp.exp(jnp.minimum(ratios, 0.0)))
        given = reductions.detach(examples["weights"])
        punished = given < 0
        weights = jnp.where(punished, kept * given, given)
        nll = weighted_nll(evaluation.log_probs, weights, evaluation.mask, reduction=self.reduction)
        share = jnp.asarray(evaluation.counts.share, nll.dtype)
        metrics = {
            "mstep/nll": Metric(nll / share, jnp.sum(given) / share),
            "mstep/truncation": Metric(jnp.sum(kept, where=punished), jnp.sum(punished).astype(jnp.float32)),
        }
        return LossOutput(nll / share, reductions.detach(metrics))
