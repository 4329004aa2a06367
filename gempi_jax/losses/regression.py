"""Regression of log-ratios on gains: (scale rho_i - (g_i - baseline))^2, for every published choice of the baseline.

rho_i = log pi_theta(y_i) - log pi_base(y_i) summed over tokens, samples of a prompt last.  At the optimum of
KL-regularised reward, pi = pi_base exp(r / beta) / Z, the residual beta rho - (r - beta log Z) is 0 for every y,
whoever wrote it; methods differ in the base and in how they estimate beta log Z.  TBA's gains are g = r / beta.

| method | base        | fit                                                                                      |
|--------|-------------|------------------------------------------------------------------------------------------|
| OPMD   | pi_t        | ``log_ratio_regression(rho, r, scale=tau, baseline=group_mean(r))``                      |
| OAPL   | the sampler | ``log_ratio_regression(rho, r, scale=beta_2, baseline=log_mean_exp(r, beta_1))``         |
| A*-PO  | pi_ref      | the same, with a baseline from the rewards of samples of pi_ref                          |
| QRPO   | pi_ref      | ``log_ratio_regression(rho, F, scale=beta, baseline=quantile_baseline(beta))``           |
| TBA    | pi_ref      | ``fitted_regression(rho, g, scale=1.0)``                                                 |
| GVPO   | pi_t        | ``0.5 * centred_regression(rho, r, scale=beta)``                                         |
| REBEL  | pi_t        | ``pair_regression(rho, r, scale=1 / eta)``                                               |

Gains and all baselines of this module are detached.  A baseline that is learned keeps its gradient.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from gempi_jax.numerics import centre, reductions
from gempi_jax.numerics.checks import known_values, positive, require, same_shape
from gempi_jax.numerics.masked import real
from gempi_jax.types import Array

Scalar = Float[Array, ""] | float


def log_ratio_regression(
    log_ratios: Float[Array, "*G K"],
    gains: Float[Array, "*G K"],
    *,
    scale: Scalar,
    baseline: Float[Array, "..."] | float,
    where: Bool[Array, "*G K"] | None = None,
) -> Float[Array, "*G K"]:
    """(scale rho_i - (g_i - baseline))^2 of each sample.

    Args:
      log_ratios: rho_i, nats, differentiable in pi_theta.
      gains: g_i, what a sample is worth: rewards, quantiles, r / beta; detached here.
      scale: beta or tau > 0, units of gain per nat.
      baseline: one number, one for each group [*G] or for each sample [*G, K], units of gain; as it is given.
      where: the samples that are real; 0 elsewhere.

    Raises:
      ValueError: where shapes disagree; for a scale known before tracing that is not positive.
    """
    _check_scale("log_ratio_regression", scale)
    rho, gains, mask = _real_samples("log_ratio_regression", log_ratios, gains, where)
    baseline = jnp.asarray(baseline, gains.dtype)
    if baseline.ndim and baseline.shape == gains.shape[:-1]:
        baseline = baseline[..., None]
    require(
        baseline.ndim == 0 or baseline.shape in (gains.shape, (*gains.shape[:-1], 1)),
        f"log_ratio_regression: baseline has shape {baseline.shape}, gains {gains.shape}; give one number, one for "
        f"each group, {gains.shape[:-1]}, or one for each sample.",
    )
    advantages = gains - jnp.where(mask, jnp.broadcast_to(baseline, gains.shape), 0.0)
    return jnp.square(scale * rho - advantages)


def group_mean(gains: Float[Array, "*G K"], *, where: Bool[Array, "*G K"] | None = None) -> Float[Array, "*G"]:
    """Mean gain of each group's real samples, detached: OPMD's r-bar, the first order of tau log Z.

    Of equal gains it is exactly their value, so that a flat group has residual 0.
    """
    same_shape("group_mean", gains=gains, where=where)
    return _mean(reductions.detach(gains), real(gains, where))


def log_mean_exp(
    gains: Float[Array, "*G K"], temperature: float, *, where: Bool[Array, "*G K"] | None = None
) -> Float[Array, "*G"]:
    """beta log mean_i exp(g_i / beta) of each group's real samples, detached: V* of OAPL and A*-PO, an estimate of
    beta log Z from samples of the base.

    Towards beta = 0 it is the largest gain, towards infinity the mean.

    Args:
      gains: g_i of the samples that estimate it.
      temperature: beta > 0, units of gain.
      where: the samples that are real; a group without any has 0.

    Raises:
      ValueError: where shapes disagree; for a temperature that is not positive.
    """
    positive(temperature, "log_mean_exp: temperature", "in units of gain, it")
    same_shape("log_mean_exp", gains=gains, where=where)
    mask = real(gains, where)
    largest = _largest(reductions.detach(gains), mask)
    below = jnp.where(mask, reductions.detach(gains) - largest[..., None], 0.0) / temperature
    mean = reductions.mean(jnp.exp(below), where=mask, axis=-1)
    return largest + temperature * jnp.log(jnp.where(mean > 0, mean, 1.0))


def fitted_baseline(
    log_ratios: Float[Array, "*G K"],
    gains: Float[Array, "*G K"],
    *,
    scale: Scalar,
    where: Bool[Array, "*G K"] | None = None,
) -> Float[Array, "*G"]:
    """mean_i (g_i - scale rho_i) of each group, detached: the baseline that fits the residuals best, TBA's log Z.

    With it the mean of the terms is the variance of scale rho - g in the group.  The residuals sum to 0 there, so that
    the gradient is the same whether the baseline is detached or not.

    Arguments and errors as for :func:`log_ratio_regression`.
    """
    _check_scale("fitted_baseline", scale)
    rho, gains, mask = _real_samples("fitted_baseline", log_ratios, gains, where)
    return _mean(gains - reductions.detach(scale * rho), mask)


def fitted_regression(
    log_ratios: Float[Array, "*G K"],
    gains: Float[Array, "*G K"],
    *,
    scale: Scalar,
    where: Bool[Array, "*G K"] | None = None,
) -> Float[Array, "*G K"]:
    """:func:`log_ratio_regression` with :func:`fitted_baseline`: terms whose mean is the variance of scale rho - g.

    Arguments and errors as for :func:`log_ratio_regression`.
    """
    baseline = fitted_baseline(log_ratios, gains, scale=scale, where=where)
    return log_ratio_regression(log_ratios, gains, scale=scale, baseline=baseline, where=where)


def centred_regression(
    log_ratios: Float[Array, "*G K"],
    gains: Float[Array, "*G K"],
    *,
    scale: Scalar,
    where: Bool[Array, "*G K"] | None = None,
) -> Float[Array, "*G"]:
    """Both sides less their means in the group: sum_i (scale (rho_i - rho-bar) - (g_i - g-bar))^2 / (K - 1).

    The variance of scale rho - g with Bessel's correction; half of it is GVPO's loss (Zhang et al. 2025).  No Z is left
    to estimate.

    Returns:
      A term for each group; 0 with fewer than two real samples, which say nothing.

    Arguments and errors as for :func:`log_ratio_regression`.
    """
    _check_scale("centred_regression", scale)
    rho, gains, mask = _real_samples("centred_regression", log_ratios, gains, where)
    # Each side by itself: equal gains are then exactly 0, and so is the gradient at rho = 0.
    residuals = scale * centre(rho, where=mask, axis=-1) - centre(gains, where=mask, axis=-1)
    pairs = jnp.maximum(reductions.count(mask, axis=-1) - 1, 1).astype(residuals.dtype)
    return jnp.sum(jnp.square(residuals), axis=-1) / pairs


def pair_regression(
    log_ratios: Float[Array, "*G K"],
    gains: Float[Array, "*G K"],
    *,
    scale: Scalar,
    where: Bool[Array, "*G K"] | None = None,
) -> Float[Array, "*G"]:
    """(scale (rho_i - rho_j) - (g_i - g_j))^2, its mean over all pairs of the group; REBEL at scale = 1 / eta, K = 2.

    The mean squared difference of all pairs is twice the variance, so this is 2 :func:`centred_regression` and costs
    K, not K^2.  Gao et al. 2024; IPO's term is eta^2 times it where eta (g_i - g_j) = 1 / (2 beta).

    Returns:
      A term for each group; 0 with fewer than two real samples.

    Arguments and errors as for :func:`log_ratio_regression`.
    """
    return 2.0 * centred_regression(log_ratios, gains, scale=scale, where=where)


def quantile_baseline(beta: float) -> float:
    """beta log Z of QRPO for the gain F(y), the share of reference rewards that are at most r(y): uniform on [0, 1].

    Z = E[e^(F / beta)] = beta (e^(1 / beta) - 1), so beta log Z = 1 + beta log(beta (1 - e^(-1 / beta))), which does
    not overflow.  Matrenok et al. 2025; exact for rewards without ties.

    Args:
      beta: > 0, units of gain per nat.

    Raises:
      ValueError: for a beta that is not positive.
    """
    positive(beta, "quantile_baseline: beta", "in units of gain per nat, it")
    return 1.0 + beta * (math.log(beta) + math.log(-math.expm1(-1.0 / beta)))


def log_quantile_baseline(beta: float) -> float:
    """beta log Z of QRPO for the gain log F(y): Z = E[F^(1 / beta)] = beta / (1 + beta).

    Arguments and errors as for :func:`quantile_baseline`.
    """
    positive(beta, "log_quantile_baseline: beta", "in units of gain per nat, it")
    return -beta * math.log1p(1.0 / beta)


def _check_scale(place: str, scale: Scalar) -> None:
    meaning = "scale, in units of gain per nat, must be positive and finite"
    known_values(place, scale, meaning, lambda value: np.isfinite(value).all() and (value > 0).all())


def _real_samples(place, log_ratios, gains, where):
    """Log-ratios and detached gains, 0 where masked, and the mask."""
    same_shape(place, log_ratios=log_ratios, gains=gains, where=where)
    mask = real(log_ratios, where)
    return jnp.where(mask, log_ratios, 0.0), reductions.detach(jnp.where(mask, gains, 0.0)), mask


def _largest(values, mask):
    """Largest real value of each group, 0 in a group without any."""
    largest = reductions.max(values, where=mask, axis=-1)
    return jnp.where(largest > -jnp.inf, largest, 0.0)


def _mean(values, mask):
    """Mean of each group's real values; exactly their value where all are equal."""
    largest = _largest(values, mask)
    return largest + reductions.mean(jnp.where(mask, values - largest[..., None], 0.0), where=mask, axis=-1)
