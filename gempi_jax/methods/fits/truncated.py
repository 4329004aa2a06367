"""Likelihood whose negative weights fade as the policy leaves what it punishes: TOPR."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp

from gempi_jax.contracts import Evaluation, LossOutput, Metric, Samples, Target
from gempi_jax.em import weighted_nll
from gempi_jax.losses import sequence_log_ratios
from gempi_jax.numerics import reductions
from gempi_jax.types import Array


@dataclasses.dataclass(frozen=True)
class TruncatedLikelihood:
    """-sum_i w_i c_i log pi_theta(y_i), with c_i = 1 where w_i > 0 and sg[min(1, pi_theta / pi_t)] of y_i elsewhere."""

    policies = ()
    ratio = True
    by_group = False

    def examples(self, samples: Samples, policies: Mapping[str, Array], target: Target) -> dict[str, Array]:
        """Nothing beside the weights."""
        return {}

    def loss(self, examples: Mapping[str, Array], evaluation: Evaluation) -> LossOutput:
        """The share of a part."""
        ratios = sequence_log_ratios(evaluation.log_probs, evaluation.old_log_probs, where=evaluation.mask)
        kept = reductions.detach(jnp.exp(jnp.minimum(ratios, 0.0)))
        weights = jnp.where(examples["weights"] < 0, kept, 1.0) * examples["weights"]
        nll = weighted_nll(evaluation.log_probs, weights, evaluation.mask) / evaluation.counts.share
        punished = examples["weights"] < 0
        metrics = {
            "mstep/nll": Metric(nll, jnp.float32(1.0)),
            "mstep/truncation": Metric(jnp.sum(kept, where=punished), jnp.sum(punished).astype(jnp.float32)),
        }
        return LossOutput(nll, reductions.detach(metrics))
