"""Preferences between two samples of a group: what DPO and its kin have in common, the pair's margin of log-ratios."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax import losses
from gempi_jax.contracts import Evaluation, LossOutput, Metric, Metrics, Samples, Target
from gempi_jax.em import Reduction
from gempi_jax.numerics import reductions
from gempi_jax.types import Array

PairTerm = Callable[..., Float[Array, "*E"]]
"""(chosen log-ratios, rejected log-ratios, beta) -> a term of each pair, as :func:`gempi_jax.losses.dpo_loss`."""


@dataclasses.dataclass(frozen=True)
class Preference:
    """A term of the log-ratios rho of each group's chosen and rejected sample, which the signs of the weights mark.

    The loss is sum_g |w_g| term(rho_chosen, rho_rejected, beta): with 1/P for each of P pairs, their mean.  A group of
    weight 0 is no pair.

    Attributes:
      term: of a pair.
      beta: the KL coefficient of (9) > 0, units of reward per nat; ``examples["betas"]`` is what the loss reads.
      reduction: rho summed over an answer's terms, as in the papers, or their mean.
      base: the policy that rho is taken to.
    """

    term: PairTerm = losses.dpo_loss
    beta: float = 0.1
    reduction: Reduction = Reduction.SUM
    base: str = "ref"

    ratio = False
    by_group = True
    reads_values = False

    def __post_init__(self):
        # What the term refuses, it refuses when the method is built.
        jax.eval_shape(lambda rho: self.term(rho, rho, self.beta), jax.ShapeDtypeStruct((1,), jnp.float32))

    @property
    def policies(self) -> tuple[str, ...]:
        """The base."""
        return (self.base,)

    def examples(
        self, samples: Samples, policies: Mapping[str, Float[Array, "G K"]], target: Target
    ) -> dict[str, Array]:
        """log pi_base of each sample, and beta of each group."""
        return {"base_log_probs": policies[self.base], "betas": jnp.full(len(target.weights), self.beta, jnp.float32)}

    def loss(self, examples: Mapping[str, Array], evaluation: Evaluation) -> LossOutput:
        """This part's share of the mean over the pairs."""
        weights, betas = examples["weights"], examples["betas"]
        rho = summed_log_ratios(evaluation, examples["base_log_probs"], weights != 0)
        if self.reduction is Reduction.MEAN:
            rho = rho / jnp.maximum(jnp.sum(evaluation.mask, axis=-1), 1).astype(rho.dtype)
        chosen, rejected = (jnp.sum(rho, axis=-1, where=side) for side in (weights > 0, weights < 0))
        shares = jnp.max(weights, axis=-1)
        terms = jnp.where(shares > 0, self.term(chosen, rejected, betas), 0.0)
        loss = jnp.sum(shares * terms) / evaluation.counts.share
        metrics = {
            "beta": mean_metric(betas, shares > 0),
            **reward_metrics(betas * chosen, betas * rejected, shares > 0),
        }
        return LossOutput(loss, reductions.detach(metrics))


def summed_log_ratios(
    evaluation: Evaluation, base_log_probs: Float[Array, "G K"], where: Bool[Array, "G K"]
) -> Float[Array, "G K"]:
    """rho = log pi_theta - log pi_base of whole samples, summed over terms; 0 where masked."""
    log_probs = jnp.sum(evaluation.log_probs, axis=-1, where=evaluation.mask)
    return losses.log_ratios(log_probs, base_log_probs, where=where)


def mean_metric(values: Float[Array, "G"], where: Bool[Array, "G"]) -> Metric:
    """A mean over the groups that count."""
    return Metric(jnp.sum(values, where=where), jnp.sum(where).astype(jnp.float32))


def reward_metrics(chosen: Float[Array, "G"], rejected: Float[Array, "G"], where: Bool[Array, "G"]) -> Metrics:
    """Implicit rewards, (4) up to beta log Z(x), of both sides of each pair, by the names that TRL has for them."""
    values = {
        "chosen": chosen,
        "rejected": rejected,
        "margins": chosen - rejected,
        "accuracies": (chosen > rejected).astype(jnp.float32),
    }
    return {f"rewards/{name}": mean_metric(value, where) for name, value in values.items()}
