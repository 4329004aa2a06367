"""Regression of log-ratios on gains: gains, baselines and the fit as values; see :mod:`gempi_jax.losses.regression`."""

import dataclasses
from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax import losses
from gempi_jax.contracts import Evaluation, LossOutput, Metric, Samples, Target
from gempi_jax.em.projection import SNAPSHOTS
from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import positive, require
from gempi_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Rewards:
    """g_i = r_i / unit.

    Attributes:
      unit: > 0; TBA's beta, 1 elsewhere.
    """

    unit: float = 1.0

    def __post_init__(self):
        positive(self.unit, "Rewards.unit", "what rewards are divided by")

    def __call__(self, samples: Samples) -> Float[Array, "G K"]:
        """The gains."""
        return samples.rewards / self.unit


@dataclasses.dataclass(frozen=True)
class Quantile:
    """g_i = F_i, the share of the prompt's R reference rewards that are at most r_i, or log F_i.

    Attributes:
      logarithm: whether it is log F; F = 0 then counts as half a sample, 1 / (2 R), since log 0 has no regression.
    """

    logarithm: bool = False

    def __call__(self, samples: Samples) -> Float[Array, "G K"]:
        """The gains."""
        reference = samples.reference_rewards
        shares = jnp.mean(reference[:, None, :] <= samples.rewards[..., None], axis=-1, dtype=jnp.float32)
        return jnp.log(jnp.maximum(shares, 0.5 / reference.shape[-1])) if self.logarithm else shares


@dataclasses.dataclass(frozen=True)
class GroupMean:
    """The group's mean gain, beta log Z to first order in 1 / beta."""

    by_group = True

    def __call__(self, samples: Samples, gains: Array, where: Bool[Array, "G K"]) -> Float[Array, "G"]:
        """One for each group."""
        return losses.group_mean(gains, where=where)


@dataclasses.dataclass(frozen=True)
class LogMeanExp:
    """temperature log mean exp(g / temperature) over the group.

    Attributes:
      temperature: > 0, units of gain.
    """

    temperature: float
    by_group = True

    def __post_init__(self):
        positive(self.temperature, "LogMeanExp.temperature", "in units of gain, it")

    def __call__(self, samples: Samples, gains: Array, where: Bool[Array, "G K"]) -> Float[Array, "G"]:
        """One for each group."""
        return losses.log_mean_exp(gains, self.temperature, where=where)


@dataclasses.dataclass(frozen=True)
class ReferenceLogMeanExp:
    """temperature log mean exp(r / temperature) over rewards of the prompt's samples of pi_ref.

    Attributes:
      temperature: > 0, units of reward.
    """

    temperature: float
    by_group = False

    def __post_init__(self):
        positive(self.temperature, "ReferenceLogMeanExp.temperature", "in units of reward, it")

    def __call__(self, samples: Samples, gains: Array, where: Bool[Array, "G K"]) -> Float[Array, "G"]:
        """One for each group."""
        return losses.log_mean_exp(samples.reference_rewards, self.temperature)


@dataclasses.dataclass(frozen=True)
class Constant:
    """One number for all, as where the gains' distribution is known.

    Attributes:
      value: units of gain.
    """

    value: float
    by_group = False

    def __call__(self, samples: Samples, gains: Array, where: Bool[Array, "G K"]) -> Float[Array, "G"]:
        """The same for each group."""
        return jnp.full(gains.shape[:1], self.value, gains.dtype)


@dataclasses.dataclass(frozen=True)
class Learned:
    """V(x) of :func:`gempi_jax.methods.with_critic`, which is fitted to rewards; for gains in their unit, at any K."""

    by_group = False

    def __call__(self, samples: Samples, gains: Array, where: Bool[Array, "G K"]) -> Float[Array, "G"]:
        """One for each group."""
        require(samples.values is not None, "Samples.values is None: a Learned baseline wants methods.with_critic.")
        return samples.values[:, 0]


@dataclasses.dataclass(frozen=True)
class Compared:
    """No baseline: samples of a group are fitted to each other, and the unknown Z cancels.

    Attributes:
      terms: (rho, gains, scale, where) -> one of each group or sample, such as
        :func:`gempi_jax.losses.centred_regression`, ``pair_regression`` or ``fitted_regression``.
    """

    terms: Callable[..., Array]
    by_group = True


Baseline = GroupMean | LogMeanExp | ReferenceLogMeanExp | Constant | Learned | Compared
"""What stands for beta log Z."""


@dataclasses.dataclass(frozen=True)
class Regression:
    """coefficient times the mean of (scale rho_i - (g_i - baseline))^2 over the samples, or of the terms of the groups.

    Gains and baselines are made in the E-step and stay for all updates on the batch.  Samples of weight 0 tell
    nothing and have no term.

    Attributes:
      scale: beta or tau > 0, units of gain per nat.
      base: the policy that rho is taken to, ``"old"`` or ``"ref"``.
      baseline: what stands for beta log Z.
      gain: what a sample is worth.
      coefficient: > 0.
      by_length: divides rho by the number of the completion's terms.
    """

    scale: float
    base: str
    baseline: Baseline
    gain: Rewards | Quantile = dataclasses.field(default_factory=Rewards)
    coefficient: float = 1.0
    by_length: bool = False

    def __post_init__(self):
        positive(self.scale, "Regression.scale", "in units of gain per nat, it")
        positive(self.coefficient, "Regression.coefficient", "a factor of the loss")
        require(
            self.base in SNAPSHOTS,
            f"Regression.base is {self.base!r}: give a snapshot that worlds keep, 'old' or 'ref'.",
        )

    @property
    def policies(self) -> tuple[str, ...]:
        """The base."""
        return (self.base,)

    @property
    def ratio(self) -> bool:
        """Whether rho has to be 0 on the first pass, as the ratio to the policy that sampled."""
        return self.base == "old"

    @property
    def by_group(self) -> bool:
        """Whether the baseline compares the samples of a group."""
        return self.baseline.by_group

    @property
    def reads_values(self) -> bool:
        """Whether the baseline is a critic's."""
        return isinstance(self.baseline, Learned)

    def examples(
        self, samples: Samples, policies: Mapping[str, Float[Array, "G K"]], target: Target
    ) -> dict[str, Array]:
        """Base log-probs and gains of each sample, and the baseline of each group where there is one."""
        require(samples.rewards is not None, "Samples.rewards is None: a regression starts from rewards; give them.")
        where = target.weights != 0
        gains = jnp.where(where, self.gain(samples), 0.0)
        examples = {"base_log_probs": policies[self.base], "gains": gains}
        if isinstance(self.baseline, Compared):
            return examples
        return examples | {"baselines": self.baseline(samples, gains, where)}

    def loss(self, examples: Mapping[str, Array], evaluation: Evaluation) -> LossOutput:
        """This part's share of the mean."""
        weights, gains = examples["weights"], examples["gains"]
        where = weights != 0
        log_probs = jnp.sum(evaluation.log_probs, axis=-1, where=evaluation.mask)
        rho = losses.log_ratios(log_probs, examples["base_log_probs"], where=where)
        if self.by_length:
            rho = rho / jnp.maximum(jnp.sum(evaluation.mask, axis=-1), 1).astype(rho.dtype)
        options = {"scale": self.scale, "where": where}
        if isinstance(self.baseline, Compared):
            terms = self.baseline.terms(rho, gains, **options)
        else:
            terms = losses.log_ratio_regression(rho, gains, baseline=examples["baselines"], **options)
        # A term of a group has the weight of all of its samples.
        shares = weights if terms.ndim == weights.ndim else jnp.sum(weights, axis=-1)
        loss = self.coefficient * jnp.sum(shares * terms) / evaluation.counts.share
        number = jnp.sum(where).astype(jnp.float32)
        metrics = {
            "mstep/regression": Metric(jnp.sum(shares * terms), jnp.sum(shares)),
            "mstep/log_ratio": Metric(jnp.sum(rho), number),
        }
        return LossOutput(loss, reductions.detach(metrics))
