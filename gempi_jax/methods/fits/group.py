"""Fits of the policy's scores over a group to a target over the same samples; see :mod:`gempi_jax.losses.group`."""

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax import losses
from gempi_jax.contracts import Evaluation, LossOutput, Samples, Target
from gempi_jax.em.transforms import Given, Transform
from gempi_jax.methods.fits.preference import mean_metric, reward_metrics, summed_log_ratios
from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import positive, require
from gempi_jax.types import Array

GroupFit = Callable[..., Float[Array, "G"]]
"""(scores, log q, where) -> a term of each group, as :func:`gempi_jax.losses.forward_softmax`."""


@dataclasses.dataclass(frozen=True)
class Boltzmann:
    """q_i ~ p_i exp(A_i / temperature) over the group, with p = 1 or a policy's own probabilities.

    Attributes:
      temperature: > 0, in units of what ``transform`` returns.
      transform: what becomes of the rewards first.
      policy: whose summed log-probs log p_i are; ``None`` is p = 1.
    """

    temperature: float = 1.0
    transform: Transform = dataclasses.field(default_factory=Given)
    policy: str | None = None

    def __post_init__(self):
        positive(self.temperature, "Boltzmann.temperature", "in units of the advantages, it")

    def __call__(
        self, samples: Samples, policies: Mapping[str, Float[Array, "G K"]], weights: Float[Array, "G K"]
    ) -> Float[Array, "G K"]:
        """log q, 0 for samples without weight, which are in no group."""
        where = weights != 0
        scores = jnp.where(where, self.transform(samples), 0.0) / self.temperature
        if self.policy is not None:
            scores = scores + jnp.where(where, policies[self.policy], 0.0)
        total = reductions.logsumexp(scores, where=where, axis=-1, keepdims=True)
        return jnp.where(where, scores - jnp.where(total > -jnp.inf, total, 0.0), 0.0)


@dataclasses.dataclass(frozen=True)
class PairLabels:
    """q = (1 - noise, noise) on the chosen and the rejected sample, which the signs of the weights mark.

    Attributes:
      noise: in [0, 1/2).
    """

    noise: float = 0.0
    policy = None

    def __post_init__(self):
        require(
            0.0 <= self.noise < 0.5,
            f"PairLabels.noise is {self.noise}: the probability of the rejected sample lies in [0, 1/2).",
        )

    def __call__(
        self, samples: Samples, policies: Mapping[str, Float[Array, "G K"]], weights: Float[Array, "G K"]
    ) -> Float[Array, "G K"]:
        """log q, 0 for samples of no pair."""
        worst = math.log(self.noise) if self.noise else -jnp.inf
        best = jnp.where(weights > 0, math.log1p(-self.noise), 0.0)
        return jnp.where(weights < 0, worst, best)


@dataclasses.dataclass(frozen=True)
class GroupSoftmax:
    """fit(beta rho, log q) of each group, averaged over the P groups that tell something: sum_g |w_g| fit_g.

    Samples of weight 0 are not in their group.

    Attributes:
      target: log q, fixed for all updates on the batch.
      fit: forward or reverse softmax, or NCA's.
      beta: scale of the scores > 0, units of reward per nat.
      base: the policy that rho is taken to; ``None`` scores by log pi_theta itself.
    """

    target: Boltzmann | PairLabels
    fit: GroupFit = losses.forward_softmax
    beta: float = 1.0
    base: str | None = "ref"

    ratio = False
    by_group = True
    reads_values = False

    def __post_init__(self):
        positive(self.beta, "GroupSoftmax.beta", "in units of reward per nat, it")
        if self.fit is losses.reverse_softmax and isinstance(self.target, PairLabels):
            require(
                self.target.noise > 0,
                "the reverse fit with PairLabels.noise = 0: KL(p || q) is infinite where q = 0. Give epsilon > 0 "
                "(EXO: 1e-3).",
            )

    @property
    def policies(self) -> tuple[str, ...]:
        """The base, and whose probabilities the target tilts."""
        return tuple(dict.fromkeys(name for name in (self.base, self.target.policy) if name is not None))

    def examples(
        self, samples: Samples, policies: Mapping[str, Float[Array, "G K"]], target: Target
    ) -> dict[str, Array]:
        """log q, and log pi_base of each sample where there is a base."""
        examples = {"target_log_probs": self.target(samples, policies, target.weights)}
        return examples if self.base is None else examples | {"base_log_probs": policies[self.base]}

    def loss(self, examples: Mapping[str, Array], evaluation: Evaluation) -> LossOutput:
        """This part's share of the mean over the groups."""
        weights, target = examples["weights"], examples["target_log_probs"]
        where, shares = weights != 0, jnp.max(weights, axis=-1)
        base = jnp.zeros(weights.shape) if self.base is None else examples["base_log_probs"]
        scores = self.beta * summed_log_ratios(evaluation, base, where)
        terms = self.fit(scores, target, where=where)
        loss = jnp.sum(shares * terms) / evaluation.counts.share
        metrics = {"mstep/group_fit": mean_metric(terms, shares > 0)}
        if self.base is not None:
            chosen, rejected = (_at_largest(scores, sign * target, where) for sign in (1.0, -1.0))
            metrics |= reward_metrics(chosen, rejected, shares > 0)
        return LossOutput(loss, reductions.detach(metrics))


def _at_largest(scores: Float[Array, "G K"], by: Float[Array, "G K"], where: Bool[Array, "G K"]) -> Float[Array, "G"]:
    """The score of each group's sample that is largest by another number, the first of several."""
    place = jnp.argmax(jnp.where(where, by, -jnp.inf), axis=-1, keepdims=True)
    return jnp.take_along_axis(scores, place, axis=-1)[..., 0]
