"""MaxMin-RLHF, section 8: who belongs to which sub-population (E-step of the mixture), and which one is served worst.

(11) is the likelihood of a pair under a cluster, not a responsibility: the values of the clusters need not sum to 1.
Posteriors normalise over clusters, and because an annotator belongs to one cluster they multiply over all of an
annotator's pairs (Algorithm 2 of Chakraborty et al. 2024 assigns whole annotators).  U counts sub-populations, H
annotators, P pairs here.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import known_values, positive, require, same_shape
from gempi_jax.numerics.masked import real
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array


def responsibilities(
    pair_log_likelihoods: Float[Array, "U P"],
    annotators: Int[Array, "P"],
    log_prior: Float[Array, "U"] | None = None,
    hard: bool = False,
    *,
    num_annotators: int | None = None,
    where: Bool[Array, "P"] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "H U"]:
    """r_u(h), in proportion to prior_u times the product of sigma(r_u(y_w) - r_u(y_l)) over annotator h's pairs.

    The weights of the reward models' M-step, [U, P], are ``responsibilities(...)[annotators].T``.

    Args:
      pair_log_likelihoods: log of (11), :func:`gempi_jax.losses.bradley_terry` of each cluster's reward gaps, nats.
      annotators: who compared each pair, 0 ... H - 1.
      log_prior: log of the clusters' shares, up to a constant; equal shares when ``None``.
      hard: one-hot rows, the first of tied clusters; otherwise posteriors.
      num_annotators: H; the largest annotator plus 1 when ``None``, which takes annotators known before tracing.
      where: the pairs that are real.
      axis_name: mapped axes over which the pairs are spread.

    Returns:
      Rows that sum to 1, detached, the same on every device.  Annotators without pairs, or whom no cluster explains,
      get the prior.

    Raises:
      ValueError: where shapes disagree, where H is unknown, for annotators outside 0 ... H - 1.
    """
    like = pair_log_likelihoods[0]
    same_shape("responsibilities", pair_log_likelihoods=like, annotators=annotators, where=where)
    number = _number_of_annotators(annotators, num_annotators)
    pairs = jnp.where(real(like, where)[None], reductions.detach(pair_log_likelihoods), 0.0)
    totals = jax.ops.segment_sum(pairs.T, annotators, num_segments=number)
    return _posterior(reductions.sum(totals, axis=(), axis_name=axis_name), log_prior, hard)


def datum_responsibilities(
    pair_log_likelihoods: Float[Array, "U P"], log_prior: Float[Array, "U"] | None = None, hard: bool = False
) -> Float[Array, "P U"]:
    """r_u of each pair by itself, as if each had an annotator of its own; see :func:`responsibilities`."""
    return _posterior(reductions.detach(pair_log_likelihoods).T, log_prior, hard)


def update_log_prior(
    responsibilities: Float[Array, "H U"],
    *,
    where: Bool[Array, "H"] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "U"]:
    """M-step of the clusters' shares: log of the mean responsibility, -inf for a cluster that nobody belongs to.

    Args:
      responsibilities: rows that sum to 1, of annotators (or of pairs).
      where: the annotators that are real and have pairs; all when ``None``.
      axis_name: mapped axes over which the annotators are spread; none for :func:`responsibilities`, whose rows every
        device has.
    """
    mask = None if where is None else jnp.broadcast_to(where[:, None], responsibilities.shape)
    return jnp.log(reductions.mean(responsibilities, where=mask, axis=0, axis_name=axis_name))


def population_utilities(
    rewards: Float[Array, "U *E"],
    kl: Float[Array, "*E"],
    beta: float,
    *,
    where: Bool[Array, "*E"] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "U"]:
    """F_u(pi) - beta KL(pi || pi_ref) for every sub-population u: what (12) takes the minimum of.

    Args:
      rewards: r_u(x, y) of samples of pi under every reward model.
      kl: an estimate per sample, log pi(y | x) - log pi_ref(y | x) or another of :mod:`gempi_jax.numerics`, nats.
      beta: the KL coefficient > 0, units of reward per nat; one for all, so it never decides who is worst.
      where: the samples that are real.
      axis_name: mapped axes over which the samples are spread.

    Raises:
      ValueError: where shapes disagree; for a beta that is not positive.
    """
    positive(beta, "population_utilities: beta", "a price per nat")
    same_shape("population_utilities", rewards=rewards[0], kl=kl, where=where)
    mask = jnp.broadcast_to(real(kl, where), rewards.shape)
    returns = reductions.mean(rewards, where=mask, axis=tuple(range(1, rewards.ndim)), axis_name=axis_name)
    # One number for all, subtracted last: populations that are tied in F stay tied.
    return returns - beta * reductions.mean(kl, where=where, axis_name=axis_name)


def worst_population(utilities: Float[Array, "U"]) -> Int[Array, ""]:
    """u_min = argmin_u of the utilities, the first where tied: the policy improves on r_{u_min} next, (12)."""
    return jnp.argmin(utilities)


def max_min_weights(utilities: Float[Array, "U"], temperature: float) -> Float[Array, "U"]:
    """softmax(-F / temperature), detached: the inner minimum of (12) with an entropy bonus, over mixtures of u.

    temperature -> 0 is the one-hot row of :func:`worst_population`; equally badly served ones share.

    Args:
      utilities: of :func:`population_utilities`, units of reward.
      temperature: > 0, units of reward.

    Raises:
      ValueError: for a temperature that is not positive.
    """
    positive(temperature, "max_min_weights: temperature", "in units of reward, it")
    return reductions.detach(jax.nn.softmax(-utilities / temperature))


def _posterior(totals: Float[Array, "N U"], log_prior: Float[Array, "U"] | None, hard: bool) -> Float[Array, "N U"]:
    """Rows of softmax(log prior + log likelihood), or their one-hot argmax."""
    prior = jnp.zeros(totals.shape[1:], totals.dtype) if log_prior is None else reductions.detach(log_prior)
    require(
        prior.shape == totals.shape[1:],
        f"log_prior has shape {prior.shape}, there are {totals.shape[1]} clusters; give one number for each.",
    )
    known_values("log_prior", prior, "some cluster must have a share", lambda values: values.max() > -np.inf)
    scores = totals + prior[None]
    # What no cluster explains says nothing about clusters.
    explained = jnp.any(scores > -jnp.inf, axis=-1, keepdims=True)
    scores = jnp.where(explained, scores, prior[None])
    if hard:
        return jax.nn.one_hot(jnp.argmax(scores, axis=-1), scores.shape[-1], dtype=scores.dtype)
    return jax.nn.softmax(scores, axis=-1)


def _number_of_annotators(annotators: Int[Array, "P"], given: int | None) -> int:
    if isinstance(annotators, jax.core.Tracer):
        require(
            given is not None, "responsibilities: inside jit the number of rows must be known: give num_annotators."
        )
        return given
    known = np.asarray(annotators)
    number = int(known.max(initial=-1)) + 1 if given is None else given
    known_values(
        "responsibilities",
        annotators,
        f"annotators must be numbers in 0 ... {number - 1} (num_annotators is {given})",
        lambda values: values.min(initial=0) >= 0 and values.max(initial=-1) < number,
    )
    return number
