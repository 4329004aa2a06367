"""Losses on pairs of responses: DPO (6) and its variants for over-fitting (IPO) and noisy labels (rDPO, cDPO).

All of them see the same two numbers of a pair, the log-ratios log pi_theta(y | x) - log pi_ref(y | x) of the chosen and
the rejected response, *summed* over the tokens of y as in the papers.  Averaged ones are per-token margins: beta then
has another unit, and IPO's optimum another meaning (TRL averages IPO's, on the authors' word; equation 17 sums).
pi_ref is frozen: whoever scores it detaches it, as :func:`gempi_jax.losses.log_ratios` does.

Each returns the term of every pair, 0 where masked; the document's mean divides their sum by the real pairs.

One pass of pi_theta enters each loss and no ratio of two passes of it, so dropout is allowed, as in SFT.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from gempi_jax.losses.reward import bradley_terry, reward_model_loss
from gempi_jax.numerics.checks import known_values, same_shape
from gempi_jax.numerics.masked import real
from gempi_jax.types import Array

Scalar = Float[Array, ""] | float
PairBeta = Float[Array, ""] | Float[Array, "*E"] | float
"""One number, or one for each pair."""


def implicit_reward(
    log_probs: Float[Array, "*E"], ref_log_probs: Float[Array, "*E"], beta: Scalar
) -> Float[Array, "*E"]:
    """beta (log pi - log pi_ref): (4) without beta log Z(x), a constant per prompt that no comparison sees.

    Args:
      log_probs: log pi(y | x), summed over tokens, nats.
      ref_log_probs: log pi_ref(y | x).
      beta: the KL coefficient of (9) > 0, units of reward per nat.
    """
    check_beta("implicit_reward", beta)
    return beta * (log_probs - ref_log_probs)


def check_beta(place: str, beta: Float[Array, "..."] | float) -> None:
    """Raises ``ValueError`` unless a beta that is known before tracing is positive and finite."""
    meaning = "beta, in units of reward per nat, must be positive and finite (0.1 is usual)"
    known_values(place, beta, meaning, lambda value: np.isfinite(value).all() and (value > 0).all())


def _check_noise(place: str, label_noise: float) -> None:
    meaning = "label_noise, the share of flipped labels, must lie in [0, 1/2) (above it, swap chosen and rejected)"
    known_values(place, label_noise, meaning, lambda value: 0.0 <= value < 0.5)


def log_ratio_margins(
    place: str,
    chosen_log_ratios: Float[Array, "..."],
    rejected_log_ratios: Float[Array, "..."],
    where: Bool[Array, "..."] | None,
) -> tuple[Float[Array, "..."], Bool[Array, "..."]]:
    """Delta = chosen minus rejected, 0 where masked, and the mask as an array."""
    same_shape(place, chosen_log_ratios=chosen_log_ratios, rejected_log_ratios=rejected_log_ratios, where=where)
    mask = real(chosen_log_ratios, where)
    # Before the subtraction: padding may be infinite, and its derivative would be NaN.
    chosen, rejected = (jnp.where(mask, ratios, 0.0) for ratios in (chosen_log_ratios, rejected_log_ratios))
    return chosen - rejected, mask


def dpo_loss(
    chosen_log_ratios: Float[Array, "*E"],
    rejected_log_ratios: Float[Array, "*E"],
    beta: PairBeta,
    *,
    where: Bool[Array, "*E"] | None = None,
) -> Float[Array, "*E"]:
    """-log sigma(beta Delta), a term of (6): the reward model's on implicit rewards (4); Rafailov et al. 2023.

    Its gradient is -beta sigma(r_l - r_w) (d log pi(y_w) - d log pi(y_l)) with r = beta log(pi / pi_ref).

    Args:
      chosen_log_ratios: log pi_theta(y_w | x) - log pi_ref(y_w | x), summed over tokens, nats.
      rejected_log_ratios: the same of y_l.
      beta: the KL coefficient > 0, units of reward per nat; one, or one for each pair.
      where: the pairs that are real; 0 elsewhere.

    Raises:
      ValueError: where shapes disagree; for a beta known before tracing that is not positive.
    """
    check_beta("dpo_loss", beta)
    margins, mask = log_ratio_margins("dpo_loss", chosen_log_ratios, rejected_log_ratios, where)
    return reward_model_loss(beta * margins, where=mask)


def ipo_loss(
    chosen_log_ratios: Float[Array, "*E"],
    rejected_log_ratios: Float[Array, "*E"],
    beta: PairBeta,
    *,
    where: Bool[Array, "*E"] | None = None,
) -> Float[Array, "*E"]:
    """(Delta - 1 / (2 beta))^2: a bounded margin where DPO's grows for ever on separable pairs; Azar et al. 2023.

    Where a pair is labelled either way, y_w with frequency p, the optimum is Delta = (2 p - 1) / (2 beta).

    Args:
      chosen_log_ratios: as for :func:`dpo_loss`, summed over tokens as in the paper.
      rejected_log_ratios: the same of y_l.
      beta: tau of the paper > 0, per nat.
      where: the pairs that are real; 0 elsewhere.

    Raises:
      ValueError: as for :func:`dpo_loss`.
    """
    check_beta("ipo_loss", beta)
    margins, mask = log_ratio_margins("ipo_loss", chosen_log_ratios, rejected_log_ratios, where)
    return jnp.where(mask, jnp.square(margins - 0.5 / beta), 0.0)


def robust_dpo_loss(
    chosen_log_ratios: Float[Array, "*E"],
    rejected_log_ratios: Float[Array, "*E"],
    beta: PairBeta,
    label_noise: float,
    *,
    where: Bool[Array, "*E"] | None = None,
) -> Float[Array, "*E"]:
    """rDPO: [-(1 - e) log sigma(h) + e log sigma(-h)] / (1 - 2 e), h = beta Delta; Chowdhury et al. 2024.

    Where each label is flipped with probability e its expectation is the DPO loss of the clean labels.  It is not
    bounded from below: a pair with h -> -inf gains.

    Args:
      chosen_log_ratios: as for :func:`dpo_loss`, of the response that the noisy label prefers.
      rejected_log_ratios: the same of the other.
      beta: the KL coefficient > 0.
      label_noise: e in [0, 1/2), the share of flipped labels; 0 is DPO.
      where: the pairs that are real; 0 elsewhere.

    Raises:
      ValueError: as for :func:`dpo_loss`; for a label noise outside [0, 1/2).
    """
    check_beta("robust_dpo_loss", beta)
    _check_noise("robust_dpo_loss", label_noise)
    margins, mask = log_ratio_margins("robust_dpo_loss", chosen_log_ratios, rejected_log_ratios, where)
    as_labelled, flipped = bradley_terry(beta * margins), bradley_terry(-beta * margins)
    terms = ((1.0 - label_noise) * as_labelled - label_noise * flipped) / (1.0 - 2.0 * label_noise)
    return jnp.where(mask, -terms, 0.0)


def conservative_dpo_loss(
    chosen_log_ratios: Float[Array, "*E"],
    rejected_log_ratios: Float[Array, "*E"],
    beta: PairBeta,
    label_noise: float,
    *,
    where: Bool[Array, "*E"] | None = None,
) -> Float[Array, "*E"]:
    """cDPO: [-(1 - e) log sigma(h) - e log sigma(-h)], smoothed labels: biased, but its optimum is finite.

    At the optimum sigma(h) = 1 - e for every pair.  Arguments and errors as for :func:`robust_dpo_loss`.
    """
    check_beta("conservative_dpo_loss", beta)
    _check_noise("conservative_dpo_loss", label_noise)
    margins, mask = log_ratio_margins("conservative_dpo_loss", chosen_log_ratios, rejected_log_ratios, where)
    as_labelled, flipped = bradley_terry(beta * margins), bradley_terry(-beta * margins)
    terms = (1.0 - label_noise) * as_labelled + label_noise * flipped
    return jnp.where(mask, -terms, 0.0)
