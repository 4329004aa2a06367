"""The pytrees that cross floors: what the worlds hand to a method and what a method hands to training.

A world (``llm``, ``rl``) fills :class:`Samples`; ``Method.e_step`` turns them into a :class:`Target`; the world
evaluates the policy that is being fitted into an :class:`Evaluation`; ``Method.m_step`` turns target and
evaluation into a :class:`LossOutput`.  Nothing here knows whether an example is a sentence or an action.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.types import Array


class Metric(NamedTuple):
    """A mean that is not yet divided: ``value = sum / weight``.

    Sums and weights of micro-batches and devices add; the division comes last, so splitting a batch never changes a
    reported mean.
    """

    sum: Float[Array, ""]
    weight: Float[Array, ""]

    @classmethod
    def of(cls, value) -> "Metric":
        """A scalar that is already a mean over everything: weight 1."""
        return cls(jnp.asarray(value, jnp.float32), jnp.ones((), jnp.float32))

    def mean(self):
        """sum / weight; 0 where nothing was counted."""
        return jnp.where(self.weight > 0, self.sum / jnp.where(self.weight > 0, self.weight, 1.0), 0.0)


Metrics = dict[str, Metric]


class Samples(NamedTuple):
    """What an E-step sees of a batch.

    Attributes:
      advantages: A_i, in units of reward.
      sampler_log_probs: log b(y_i), nats, of the distribution that really sampled, summed over the example's terms.
      anchor_log_probs: log pi_j(y_i), nats, in the order of the method's anchors; m = 0 is an empty leading axis.
      mask: the samples that are real; ``None`` when all are.
      tie_break: a second score for the filter (usually the reward) where advantages are tied.
      signal: the samples whose reward differs from that of one they are compared with, judged before anything was
        taken off it or rounded; ``None`` judges by the advantages, over the scope of the weights.
    """

    advantages: Float[Array, "*E"]
    sampler_log_probs: Float[Array, "*E"]
    anchor_log_probs: Float[Array, "m *E"]
    mask: Bool[Array, "*E"] | None = None
    tie_break: Float[Array, "*E"] | None = None
    signal: Bool[Array, "*E"] | None = None


class Target(NamedTuple):
    """The E-step's product: detached weights of a weighted maximum likelihood, (26).

    Attributes:
      weights: w_i >= 0, detached.  They sum to 1 over their scope (batch), to 1/G in each of G groups (group), or
        are min(exp(l_i), clip)/N (none).
      dual_loss: L(lambda), (25); a function of the duals only, to be minimised in them.  0 when nothing adapts.
      metrics: ``estep/*``.
      signal: whether any weight of the whole batch is not 0: without, neither policy nor duals move; ``None`` is true.
    """

    weights: Float[Array, "*E"]
    dual_loss: Float[Array, ""]
    metrics: Metrics
    signal: Bool[Array, ""] | None = None


class Evaluation(NamedTuple):
    """The policy that is being fitted, evaluated on the examples of a target.

    Losses are additive: summed over the parts (micro-batches, devices) of one update they give the loss of the
    update, because the one denominator that an M-step needs is counted beforehand and passed in.

    Attributes:
      log_probs: log pi_theta of each term (token), nats.
      mask: the terms that carry loss: completion tokens up to and including the end token.
      divergence: D_M(pi_k || pi_theta) per term by part: ``{}`` (no trust region), ``{"kl": ...}``, or
        ``{"mean": ..., "covariance": ...}`` of a Gaussian policy.
      num_terms: number of real terms in the whole update that this evaluation is a part of.
      old_log_probs: log pi_t of each term, nats, for the methods that use a ratio (PPO); ``None`` elsewhere.
    """

    log_probs: Float[Array, "*E L"]
    mask: Bool[Array, "*E L"]
    divergence: dict[str, Float[Array, "*E L"]]
    num_terms: Float[Array, ""]
    old_log_probs: Float[Array, "*E L"] | None = None


class LossOutput(NamedTuple):
    """A loss to be minimised in the parameters and in the duals, and what to report of it.

    Attributes:
      loss: this part's additive share of the update's loss.
      metrics: ``mstep/*`` and, for losses outside the tuple, their own names.
    """

    loss: Float[Array, ""]
    metrics: Metrics
