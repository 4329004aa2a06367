"""A critic as a combinator on a method, as ``optax.chain`` is one on transformations."""

from jaxtyping import PyTree

from gempi_jax.contracts import Evaluation, LossOutput, Metric, Samples, Target
from gempi_jax.methods.base import Critic, Method
from gempi_jax.numerics import reductions
from gempi_jax.types import Duals


def with_critic(method: Method, critic: Critic, *, coefficient: float = 1.0) -> Method:
    """``method`` whose advantages come from a learned V, which the M-step fits beside the policy.

    The loss is coefficient / 2 (V(x) - target)^2, a mean over the examples of the update; the targets come from the
    critic's estimator.  V is fitted on all units, those too that the M-step leaves out of the likelihood.

    Args:
      method: any.
      critic: how V makes advantages and targets.
      coefficient: of the value loss.
    """

    def e_step(duals: Duals, samples: Samples, state: PyTree = ()) -> Target:
        target = method.e_step(duals, samples, state)
        if samples.value_targets is None:
            raise ValueError("Samples.value_targets is None: a critic's world estimates them with Needs.critic.")
        examples = target.examples | reductions.detach({"value_targets": samples.value_targets})
        return target._replace(examples=examples)

    def m_step(duals: Duals, target: Target, evaluation: Evaluation) -> LossOutput:
        fitted = method.m_step(duals, target, evaluation)
        if evaluation.values is None:
            raise ValueError("Evaluation.values is None: a critic's world evaluates V, as Needs.critic says.")
        real = evaluation.mask.any(-1)
        terms = 0.5 * (evaluation.values - target.examples["value_targets"]) ** 2
        loss = terms.sum(where=real) / evaluation.counts.examples.clip(1.0)
        metric = Metric(terms.sum(where=real), real.sum().astype(terms.dtype))
        return LossOutput(fitted.loss + coefficient * loss, fitted.metrics | reductions.detach({"value/loss": metric}))

    needs = method.needs._replace(critic=critic)
    return method._replace(needs=needs, e_step=e_step, m_step=m_step)
