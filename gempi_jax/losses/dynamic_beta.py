"""beta-DPO: the batch chooses its own beta, and pairs far from the usual margin are left out; Wu et al. 2024.

The one state, :class:`MarginMoments`, is passed in and the next one computed by :func:`update_margin_moments`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.losses.preference import Scalar, check_beta, log_ratio_margins
from gempi_jax.losses.reward import reward_model_loss
from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import require
from gempi_jax.numerics.masked import variance
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.numerics.selection import top_k_mask
from gempi_jax.types import Array

MINIMUM_BETA = 1e-3
"""A batch of very small margins would make beta negative: it is kept at least here."""


class MarginMoments(NamedTuple):
    """Moving mean M_0 and standard deviation of the implicit reward margins M_i = beta_0 Delta_i, units of reward."""

    mean: Float[Array, ""]
    deviation: Float[Array, ""]


def margin_moments(
    chosen_log_ratios: Float[Array, "*E"],
    rejected_log_ratios: Float[Array, "*E"],
    beta: Scalar,
    *,
    where: Bool[Array, "*E"] | None = None,
    axis_name: AxisName = None,
) -> MarginMoments:
    """Mean and deviation of M_i = beta_0 Delta_i over the real pairs of one batch, detached."""
    check_beta("margin_moments", beta)
    margins, mask = log_ratio_margins("margin_moments", chosen_log_ratios, rejected_log_ratios, where)
    margins = reductions.detach(beta * margins)
    spread = variance(margins, where=mask, axis_name=axis_name)
    return MarginMoments(reductions.mean(margins, where=mask, axis_name=axis_name), jnp.sqrt(spread))


def update_margin_moments(moments: MarginMoments, of_batch: MarginMoments, momentum: float = 0.9) -> MarginMoments:
    """momentum * moments + (1 - momentum) * of_batch, after the loss of the batch has used ``moments``.

    Args:
      moments: the moving ones; those of the first batch to begin with.
      of_batch: :func:`margin_moments` of the batch.
      momentum: in [0, 1), the weight of the past.

    Raises:
      ValueError: for a momentum outside [0, 1).
    """
    require(
        0.0 <= momentum < 1.0, f"update_margin_moments: momentum must lie in [0, 1) (0.9 is usual), not {momentum}."
    )
    return jax.tree.map(lambda old, new: momentum * old + (1.0 - momentum) * new, moments, of_batch)


def batch_beta(
    margins: Float[Array, "*E"],
    moments: MarginMoments,
    beta: Scalar,
    sensitivity: float = 0.6,
    *,
    where: Bool[Array, "*E"] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    """beta_0 [1 + a (mean_i M_i - M_0)], detached and at least ``MINIMUM_BETA``: easy pairs get a tighter leash.

    Args:
      margins: M_i = beta_0 Delta_i, units of reward.
      moments: M_0 and the deviation, moving.
      beta: beta_0 > 0.
      sensitivity: a, per unit of reward; 0 is DPO.
      where: the pairs that count.
      axis_name: mapped axes over which the pairs are spread.
    """
    excess = reductions.mean(margins, where=where, axis_name=axis_name) - moments.mean
    return reductions.detach(jnp.maximum(beta * (1.0 + sensitivity * excess), MINIMUM_BETA))


def typical_pairs(
    margins: Float[Array, "*E"],
    moments: MarginMoments,
    kept_fraction: float,
    *,
    key: Array | None = None,
    where: Bool[Array, "*E"] | None = None,
    axis_name: AxisName = None,
) -> Bool[Array, "*E"]:
    """Keeps a share of the pairs by the Gaussian weight exp(-(M_i - M_0)^2 / (2 deviation^2)).

    With a key the pairs are drawn without replacement in proportion to their weights, as in the paper; without one
    those of the largest weight are kept, which no random number and no number of devices changes.

    Args:
      margins: M_i, units of reward.
      moments: M_0 and the deviation, moving.
      kept_fraction: rho in (0, 1]; exactly max(1, floor(rho N)) of the N real pairs are kept.
      key: of the draw; in a mapped function one for each device.
      where: the pairs that are real.
      axis_name: mapped axes over which the leading axis is spread.
    """
    scaled = (reductions.detach(margins) - moments.mean) / jnp.maximum(moments.deviation, 1e-8)
    scores = -0.5 * jnp.square(scaled)
    if key is not None:
        # The k largest of log-weights plus Gumbel noise are k draws without replacement.
        scores = scores + jax.random.gumbel(key, scores.shape, scores.dtype)
    return top_k_mask(scores, kept_fraction, where=where, axis_name=axis_name)


def beta_dpo_loss(
    chosen_log_ratios: Float[Array, "*E"],
    rejected_log_ratios: Float[Array, "*E"],
    beta: Scalar,
    moments: MarginMoments | None = None,
    *,
    sensitivity: float = 0.6,
    kept_fraction: float = 0.8,
    key: Array | None = None,
    where: Bool[Array, "*E"] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    """DPO (6) on the kept pairs, at the beta of :func:`batch_beta`; nothing flows through the filter or beta.

    The mean M of the batch is taken over the kept pairs, so that an outlier moves neither the loss nor beta.

    Args:
      chosen_log_ratios: as for :func:`gempi_jax.losses.dpo_loss`.
      rejected_log_ratios: the same of y_l.
      beta: beta_0 > 0, units of reward per nat.
      moments: moving moments of the margins; those of this batch when ``None``, as in the first step.
      sensitivity: a >= 0 of the batch's beta, per unit of reward.
      kept_fraction: rho in (0, 1] of the filter; 1 keeps all.
      key: draws the kept pairs at random; the most typical ones when ``None``.
      where: the pairs that are real.
      axis_name: mapped axes over which the pairs are spread.

    Raises:
      ValueError: as for :func:`gempi_jax.losses.dpo_loss`; for a sensitivity below 0 or a fraction outside (0, 1].
    """
    check_beta("beta_dpo_loss", beta)
    require(sensitivity >= 0, f"beta_dpo_loss: sensitivity must be at least 0 (0 is DPO), not {sensitivity}.")
    differences, mask = log_ratio_margins("beta_dpo_loss", chosen_log_ratios, rejected_log_ratios, where)
    options = {"where": mask, "axis_name": axis_name}
    if moments is None:
        moments = margin_moments(chosen_log_ratios, rejected_log_ratios, beta, **options)
    kept = typical_pairs(beta * differences, moments, kept_fraction, key=key, **options)
    used = batch_beta(beta * differences, moments, beta, sensitivity, where=kept, axis_name=axis_name)
    return reward_model_loss(used * differences, where=kept, axis_name=axis_name)
