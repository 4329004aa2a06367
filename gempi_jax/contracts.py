"""The pytrees that cross floors: what the worlds hand to a method and what a method hands to training.

A world (``llm``, ``rl``) fills :class:`Samples`; ``Method.e_step`` turns them into a :class:`Target`; the world
evaluates the policy that is being fitted into an :class:`Evaluation`; ``Method.m_step`` turns target and
evaluation into a :class:`LossOutput`.  Nothing here knows whether an example is a sentence or an action.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, PyTree

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

    Axis 0 of the examples ``*E`` is the unit that is never cut: a prompt with its K samples [G, K], or with their
    tokens [G, K, C] where an example is a token, an environment with its unroll [B, T].  A group is all that follows
    axis 0 of one unit.

    Attributes:
      advantages: A_i, in units of reward.
      sampler_log_probs: log b(y_i), nats, of the distribution that really sampled, summed over the example's terms.
      anchor_log_probs: log pi_j(y_i), nats, in the order of ``Needs.anchors``; m = 0 is an empty leading axis.
      mask: the samples that are real; ``None`` when all are.
      rewards: r_i before anything was taken off, for transforms that start from it and where advantages are tied.
      signal: the samples whose reward differs from that of one they are compared with, judged before anything was
        taken off it or rounded; ``None`` judges by the advantages, over the scope of the weights.
      values: V of each example as it was when the advantages were made; ``None`` without a critic.
      value_targets: what a critic is to learn.
      reference_rewards: rewards of R completions of each prompt that pi_ref wrote, for ``Needs.reference_samples``.
      bounds_costs: 0 for an action within its bounds, less the distance to them outside, for ``Needs.bounds``.
    """

    advantages: Float[Array, "*E"]
    sampler_log_probs: Float[Array, "*E"]
    anchor_log_probs: Float[Array, "m *E"]
    mask: Bool[Array, "*E"] | None = None
    rewards: Float[Array, "*E"] | None = None
    signal: Bool[Array, "*E"] | None = None
    values: Float[Array, "*E"] | None = None
    value_targets: Float[Array, "*E"] | None = None
    reference_rewards: Float[Array, "G R"] | None = None
    bounds_costs: Float[Array, "*E"] | None = None


class Target(NamedTuple):
    """The E-step's product, detached.

    Attributes:
      examples: what the method's own M-step reads of each example: arrays with units in axis 0, which training slices
        as it slices the batch.  ``"weights"`` are w_i of (26): they sum to 1 over their scope (batch), to 1/G in each
        of G groups (group), are min(exp(l_i), clip)/N (unnormalised), or have signs.
      dual_loss: L(lambda), (25); a function of the duals only, to be minimised in them.  0 when nothing adapts.
      metrics: ``estep/*``.
      signal: whether any weight of the whole batch is not 0: without, neither policy nor duals move; ``None`` is true.
      importance: what leaving a unit out of the M-step costs, its share of the weight; ``None`` where all units count.
      state: the method's state after this batch.
    """

    examples: dict[str, Array]
    dual_loss: Float[Array, ""]
    metrics: Metrics
    signal: Bool[Array, ""] | None = None
    importance: Float[Array, "G"] | None = None
    state: PyTree = ()

    @property
    def weights(self) -> Float[Array, "*E"]:
        """w_i, for the methods whose examples have weights."""
        return self.examples["weights"]


class Counts(NamedTuple):
    """What the losses of one update are divided by, counted over all of its parts (micro-batches, devices).

    Attributes:
      terms: real likelihood terms.
      examples: examples with a real term.
      share: of the batch's units: weights sum to 1 over the batch, so that an update's sum is divided by its share.
    """

    terms: Float[Array, ""]
    examples: Float[Array, ""]
    share: Float[Array, ""] | float = 1.0


class Evaluation(NamedTuple):
    """The policy that is being fitted, evaluated on the examples of a target.

    Losses are additive: summed over the parts (micro-batches, devices) of one update they give the loss of the
    update, because what they are divided by is counted beforehand and passed in.

    Attributes:
      log_probs: log pi_theta of each term (token), nats.
      mask: the terms that carry loss: completion tokens up to and including the end token.
      divergence: D_M of pi_theta and the snapshot that it is measured towards, per term by part: ``{}`` (no trust
        region), ``{"kl": ...}``, or ``{"mean": ..., "covariance": ...}`` of a Gaussian policy.
      counts: of the whole update that this evaluation is a part of.
      old_log_probs: log pi_t of each term, nats, for ``Needs.ratio``; ``None`` elsewhere.
      entropy: of pi_theta at each term, nats, for ``Needs.entropy``.
      values: V of each example, for ``Needs.critic``.
      prior: 1/2 |theta - theta_0|^2 over all parameters, for ``Needs.prior``.
    """

    log_probs: Float[Array, "*E L"]
    mask: Bool[Array, "*E L"]
    divergence: dict[str, Float[Array, "*E L"]]
    counts: Counts
    old_log_probs: Float[Array, "*E L"] | None = None
    entropy: Float[Array, "*E L"] | None = None
    values: Float[Array, "*E"] | None = None
    prior: Float[Array, ""] | None = None


class LossOutput(NamedTuple):
    """A loss to be minimised in the parameters and in the duals, and what to report of it.

    Attributes:
      loss: this part's additive share of the update's loss.
      metrics: ``mstep/*`` and, for losses outside the tuple, their own names.
    """

    loss: Float[Array, ""]
    metrics: Metrics
