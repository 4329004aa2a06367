"""What is added to a method, as ``optax.chain`` adds to a transformation: a critic, an entropy bonus, a price of KL."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, PyTree

from gempi_jax.contracts import Evaluation, LossOutput, Metric, Samples, Target
from gempi_jax.losses import clipped_value_loss, value_loss
from gempi_jax.methods.base import Critic, Method
from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import positive, require
from gempi_jax.numerics.masked import variance
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array, Duals


def with_critic(
    method: Method,
    critic: Critic,
    *,
    coefficient: float = 1.0,
    value_clip: float | None = None,
    axis_name: AxisName = None,
) -> Method:
    """``method`` whose advantages come from a learned V, which the M-step fits beside the policy.

    The loss is coefficient / 2 (V - target)^2, a mean over the examples of the update; the targets come from the
    critic's estimator.  V is fitted on all units, those too that the M-step leaves out of the likelihood.

    Args:
      method: one that starts from the world's advantages.
      critic: how V makes advantages and targets.
      coefficient: of the value loss.
      value_clip: V that has moved so far towards its target stops, units of return; ``None`` without.
      axis_name: mapped axes over which the E-step's batch is spread.

    Raises:
      ValueError: a method that makes its own advantages of the rewards; a number out of range.
    """
    require(
        method.needs.baseline,
        "with_critic: this method makes its own advantages of the rewards of a group, and V would be fitted for "
        "nothing; give its GempiSpec transform=Given() or Standardized().",
    )
    require(0.0 <= critic.gamma <= 1.0, f"with_critic: Critic.gamma is {critic.gamma}: a discount lies in [0, 1].")
    positive(coefficient, "with_critic: coefficient", "of the value loss, it")
    if value_clip is not None:
        positive(value_clip, "with_critic: value_clip", "in units of return (None for no clip), it")

    def e_step(duals: Duals, samples: Samples, state: PyTree = ()) -> Target:
        target = method.e_step(duals, samples, state)
        if samples.value_targets is None or samples.values is None:
            raise ValueError("Samples.value_targets is None: a critic's world estimates them with Needs.critic.")
        learnt = {"value_targets": samples.value_targets, "old_values": samples.values}
        explained = Metric.of(_explained_variance(samples, axis_name))
        return target._replace(
            examples=target.examples | reductions.detach(learnt),
            metrics=target.metrics | reductions.detach({"value/explained_variance": explained}),
        )

    def m_step(duals: Duals, target: Target, evaluation: Evaluation) -> LossOutput:
        fitted = method.m_step(duals, target, evaluation)
        if evaluation.values is None:
            raise ValueError("Evaluation.values is None: a critic's world evaluates V, as Needs.critic says.")
        real, learnt = evaluation.mask.any(-1), target.examples["value_targets"]
        if value_clip is None:
            terms = value_loss(evaluation.values, learnt, where=real)
        else:
            old = target.examples["old_values"]
            terms = clipped_value_loss(evaluation.values, old, learnt, value_clip, where=real)
        loss = jnp.sum(terms) / jnp.maximum(evaluation.counts.examples, 1.0)
        number = jnp.sum(real).astype(terms.dtype)
        metrics = {"value/loss": Metric(jnp.sum(terms), number)}
        return LossOutput(fitted.loss + coefficient * loss, fitted.metrics | reductions.detach(metrics))

    needs = method.needs._replace(critic=critic)
    return method._replace(needs=needs, e_step=e_step, m_step=m_step)


def _explained_variance(samples: Samples, axis_name: AxisName) -> Float[Array, ""]:
    """1 - var(G - V) / var(G) of the batch, V as it was when the targets G were made; 0 where all G are equal."""
    options = {"where": samples.mask, "axis_name": axis_name}
    total = variance(samples.value_targets, **options)
    rest = variance(samples.value_targets - samples.values, **options)
    return jnp.where(total > 0, 1.0 - rest / jnp.where(total > 0, total, 1.0), 0.0)


def with_entropy(method: Method, coefficient: float | Float[Array, ""]) -> Method:
    """``method`` whose loss is less coefficient times the policy's mean entropy per term, section 4; 0 adds nothing.

    Args:
      method: any.
      coefficient: a number, or a scalar of the program, which may be another in each iteration.

    Raises:
      ValueError: a number below 0.
    """
    if not isinstance(coefficient, jax.Array):
        require(coefficient >= 0, f"with_entropy: coefficient is {coefficient}: give a bonus, or 0 for none.")
        if not coefficient:
            return method

    def m_step(duals: Duals, target: Target, evaluation: Evaluation) -> LossOutput:
        fitted = method.m_step(duals, target, evaluation)
        if evaluation.entropy is None:
            raise ValueError("Evaluation.entropy is None: the world evaluates it where Needs.entropy says so.")
        entropy = jnp.sum(evaluation.entropy, where=evaluation.mask) / jnp.maximum(evaluation.counts.terms, 1.0)
        return LossOutput(fitted.loss - coefficient * entropy, fitted.metrics)

    return method._replace(needs=method.needs._replace(entropy=True), m_step=m_step)


def with_kl_price(method: Method, beta: float) -> Method:
    """``method`` on rewards less beta (log b - log pi_ref), k1 of the policy that sampled; 0 takes nothing off.

    It is a part of the reward, so that it moves baselines, and equal rewards may have a signal.

    Raises:
      ValueError: a beta below 0.
    """
    require(beta >= 0, f"with_kl_price: beta is {beta}: give a price in units of reward per nat, or 0 for none.")
    return method._replace(needs=method.needs._replace(kl_price=beta))
