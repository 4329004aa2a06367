"""Supervised fine-tuning, the tuple with m = 0, by maximum likelihood or with a prior."""

import math

import jax.numpy as jnp

from gempi_jax.contracts import Evaluation, LossOutput, Metric, Target
from gempi_jax.em import GempiSpec, Penalty, Reduction, Unconstrained
from gempi_jax.methods.base import Method
from gempi_jax.methods.gempi import from_spec
from gempi_jax.methods.vmpo import FORWARD_KL
from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import require
from gempi_jax.types import Duals


def sft(*, reduction: Reduction = Reduction.SUM) -> Method:
    """q is the demonstrations themselves, weights 1/N, the M-step pure maximum likelihood.

    Args:
      reduction: sum or mean over the tokens of a demonstration.
    """
    return from_spec(GempiSpec(reduction=reduction))


def map_sft(precision: float = 1e-3, kl_price: float = 0.0, *, reduction: Reduction = Reduction.SUM) -> Method:
    """Maximum a posteriori, section 2: :func:`sft` with a Gaussian prior on parameters, or a KL prior on the policy.

    The loss is the mean negative log-likelihood of a demonstration, plus precision / 2 |theta - theta_0|^2, plus
    kl_price KL(pi_ref || pi_theta) per token; theta_0 and pi_ref are what the phase starts from.

    Args:
      precision: 1 / (sigma^2 N), of the prior against one of the N demonstrations; 0 for no Gaussian prior.
      kl_price: of the KL to pi_ref on the demonstrations' contexts, nats per token; 0 for none.
      reduction: sum or mean over the tokens of a demonstration.

    Raises:
      ValueError: where neither prior is there, or one is negative.
    """
    if min(precision, kl_price) < 0 or not max(precision, kl_price) > 0:
        raise ValueError(f"precision = {precision}, kl_price = {kl_price}: give one that is positive, or use sft.")
    penalty = Penalty(kl_price, FORWARD_KL, towards="ref") if kl_price else Unconstrained()
    return with_prior(from_spec(GempiSpec(projection=penalty, reduction=reduction)), precision)


def with_prior(method: Method, precision: float) -> Method:
    """``method`` whose loss has precision / 2 |theta - theta_0|^2, a Gaussian prior around the start; 0 adds nothing.

    The distance is of no example: each part of an update sees it by its share of the examples.

    Args:
      method: any.
      precision: at least 0, for each example.
    """
    require(0 <= precision < math.inf, f"precision is {precision}: give a number of at least 0, for each example.")
    if not precision:
        return method

    def m_step(duals: Duals, target: Target, evaluation: Evaluation) -> LossOutput:
        fitted = method.m_step(duals, target, evaluation)
        if evaluation.prior is None:
            raise ValueError("Evaluation.prior is None: the world evaluates it where Needs.prior says so.")
        share = jnp.sum(evaluation.mask.any(-1)).astype(jnp.float32) / jnp.maximum(evaluation.counts.examples, 1.0)
        prior = precision * evaluation.prior * share
        metrics = {"mstep/prior": reductions.detach(Metric(prior, share))}
        return LossOutput(fitted.loss + prior, fitted.metrics | metrics)

    return method._replace(needs=method.needs._replace(prior=True), m_step=m_step)
