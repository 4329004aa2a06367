"""What is added to a method, as ``optax.chain`` adds to a transformation: a critic, an entropy bonus."""

import jax.numpy as jnp
from jaxtyping import PyTree

from gempi_jax.contracts import Evaluation, LossOutput, Metric, Samples, Target
from gempi_jax.losses import clipped_value_loss, value_loss
from gempi_jax.methods.base import Critic, Method
from gempi_jax.numerics import reductions
from gempi_jax.types import Duals


def with_critic(method: Method, critic: Critic, *, coefficient: float = 1.0, value_clip: float | None = None) -> Method:
    """``method`` whose advantages come from a learned V, which the M-step fits beside the policy.

    The loss is coefficient / 2 (V - target)^2, a mean over the examples of the update; the targets come from the
    critic's estimator.  V is fitted on all units, those too that the M-step leaves out of the likelihood.

    Args:
      method: any.
      critic: how V makes advantages and targets.
      coefficient: of the value loss.
      value_clip: V that has moved so far towards its target stops, units of return; ``None`` without.
    """

    def e_step(duals: Duals, samples: Samples, state: PyTree = ()) -> Target:
        target = method.e_step(duals, samples, state)
        if samples.value_targets is None or samples.values is None:
            raise ValueError("Samples.value_targets is None: a critic's world estimates them with Needs.critic.")
        learnt = {"value_targets": samples.value_targets, "old_values": samples.values}
        return target._replace(examples=target.examples | reductions.detach(learnt))

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
        unexplained = jnp.sum(jnp.square(learnt - evaluation.values), where=real)
        metrics = {"value/loss": Metric(jnp.sum(terms), number), "value/squared_error": Metric(unexplained, number)}
        return LossOutput(fitted.loss + coefficient * loss, fitted.metrics | reductions.detach(metrics))

    needs = method.needs._replace(critic=critic)
    return method._replace(needs=needs, e_step=e_step, m_step=m_step)


def with_entropy(method: Method, coefficient: float) -> Method:
    """``method`` whose loss is less coefficient times the policy's mean entropy per term, section 4; 0 adds nothing."""
    if not coefficient:
        return method

    def m_step(duals: Duals, target: Target, evaluation: Evaluation) -> LossOutput:
        fitted = method.m_step(duals, target, evaluation)
        if evaluation.entropy is None:
            raise ValueError("Evaluation.entropy is None: the world evaluates it where Needs.entropy says so.")
        entropy = jnp.sum(evaluation.entropy, where=evaluation.mask) / jnp.maximum(evaluation.counts.terms, 1.0)
        return LossOutput(fitted.loss - coefficient * entropy, fitted.metrics)

    return method._replace(needs=method.needs._replace(entropy=True), m_step=m_step)
