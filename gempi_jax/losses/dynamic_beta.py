"""beta-DPO: the batch chooses its own beta, and pairs far from the usual margin are left out; Wu et al. 2024.

Both are statistics of the whole batch and belong in an E-step: :func:`published_beta` (the paper) or
:func:`released_beta` (the authors' code) gives beta, the kept pairs and the next moments, detached;
:func:`beta_dpo_loss` then is a term of each pair, to be averaged over the kept pairs of the update.

|                          | published                          | released                              |
|--------------------------|------------------------------------|---------------------------------------|
| margin                   | M_i = beta_0 Delta_i               | Delta_i, for the same a               |
| beta_0 (1 + a (. - M_0)) | mean over the batch                | mean over the kept pairs              |
| M_0 and the deviation    | of the past; at first of the batch | from 0, updated with the batch        |
| deviation of the batch   | over n                             | over n - 1                            |
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.losses.preference import Scalar, check_beta, log_ratio_margins
from gempi_jax.losses.reward import reward_model_loss
from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import require
from gempi_jax.numerics.keys import named_key
from gempi_jax.numerics.masked import variance
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.numerics.selection import top_k_mask
from gempi_jax.types import Array

MINIMUM_BETA = 1e-3
"""A batch of very small margins would make beta negative: it is kept at least here."""


class MarginMoments(NamedTuple):
    """Mean M_0 and standard deviation of margins, and the number of batches that they come from."""

    mean: Float[Array, ""]
    deviation: Float[Array, ""]
    batches: Float[Array, ""]


class DynamicBeta(NamedTuple):
    """What beta-DPO decides about a batch, detached: beta, the pairs that count, and the moments for the next batch."""

    beta: Float[Array, ""]
    kept: Bool[Array, "*E"]
    moments: MarginMoments


def initial_moments() -> MarginMoments:
    """Before the first batch: zeros."""
    return MarginMoments(*(jnp.zeros(()) for _ in range(3)))


def margin_moments(
    margins: Float[Array, "*E"],
    *,
    bessel: bool = False,
    where: Bool[Array, "*E"] | None = None,
    axis_name: AxisName = None,
) -> MarginMoments:
    """Mean and deviation over the real pairs of one batch, detached; of no batch where none is real.

    Args:
      margins: M_i or Delta_i.
      bessel: whether squares are divided by n - 1, not by n.
      where: the pairs that are real.
      axis_name: mapped axes over which the pairs are spread.
    """
    margins = reductions.detach(margins)
    mask = jnp.ones(margins.shape, bool) if where is None else where
    number = reductions.count(mask, axis_name=axis_name).astype(margins.dtype)
    spread = variance(margins, where=mask, axis_name=axis_name)
    spread = spread * number / jnp.maximum(number - 1.0, 1.0) if bessel else spread
    mean = reductions.mean(margins, where=mask, axis_name=axis_name)
    return MarginMoments(mean, jnp.sqrt(spread), jnp.minimum(number, 1.0))


def update_margin_moments(moments: MarginMoments, of_batch: MarginMoments, momentum: float = 0.9) -> MarginMoments:
    """momentum * moments + (1 - momentum) * of_batch; a batch without real pairs changes nothing.

    Args:
      moments: the moving ones.
      of_batch: :func:`margin_moments` of the batch.
      momentum: in [0, 1), the weight of the past.

    Raises:
      ValueError: for a momentum outside [0, 1).
    """
    require(
        0.0 <= momentum < 1.0, f"update_margin_moments: momentum must lie in [0, 1) (0.9 is usual), not {momentum}."
    )
    moved = jax.tree.map(lambda old, new: momentum * old + (1.0 - momentum) * new, moments, of_batch)
    moved = moved._replace(batches=moments.batches + of_batch.batches)
    return jax.tree.map(lambda old, new: jnp.where(of_batch.batches > 0, new, old), moments, moved)


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
      margins: M_i, units of reward, or Delta_i, nats.
      moments: M_0 and the deviation of the same.
      beta: beta_0 > 0.
      sensitivity: a >= 0, per unit of the margins; 0 is DPO.
      where: the pairs that count.
      axis_name: mapped axes over which the pairs are spread.

    Raises:
      ValueError: for a sensitivity below 0.
    """
    require(sensitivity >= 0, f"batch_beta: sensitivity must be at least 0 (0 is DPO), not {sensitivity}.")
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
      margins: M_i or Delta_i.
      moments: M_0 and the deviation of the same.
      kept_fraction: rho in (0, 1]; exactly max(1, floor(rho N)) of the N real pairs are kept.
      key: of the draw, the same on all devices.
      where: the pairs that are real.
      axis_name: mapped axes over which the leading axis is spread.
    """
    scaled = (reductions.detach(margins) - moments.mean) / jnp.maximum(moments.deviation, 1e-8)
    scores = -0.5 * jnp.square(scaled)
    if key is not None:
        # The k largest of log-weights plus Gumbel noise are k draws without replacement.
        # One number for each pair, by its place among all: no number of devices changes what is drawn.
        place = reductions.global_index(scores.shape, axis_name=axis_name).reshape(-1)
        draw = jax.vmap(lambda index: jax.random.gumbel(named_key(key, "pair", index), (), scores.dtype))
        scores = scores + draw(place).reshape(scores.shape)
    return top_k_mask(scores, kept_fraction, where=where, axis_name=axis_name)


def published_beta(
    chosen_log_ratios: Float[Array, "*E"],
    rejected_log_ratios: Float[Array, "*E"],
    beta: Scalar,
    moments: MarginMoments,
    *,
    sensitivity: float = 0.6,
    kept_fraction: float = 0.8,
    momentum: float = 0.9,
    key: Array | None = None,
    where: Bool[Array, "*E"] | None = None,
    axis_name: AxisName = None,
) -> DynamicBeta:
    """beta and the kept pairs of a batch as in the paper, by margins M_i = beta_0 Delta_i and the moments of the past.

    Args:
      chosen_log_ratios: as for :func:`gempi_jax.losses.dpo_loss`.
      rejected_log_ratios: the same of y_l.
      beta: beta_0 > 0, units of reward per nat.
      moments: of the batches before; those of this one where there were none.
      sensitivity: a >= 0 of the batch's beta, per unit of the margins.
      kept_fraction: rho in (0, 1] of the filter; 1 keeps all.
      momentum: in [0, 1), the weight of the past in the next moments.
      key: draws the kept pairs at random; the most typical ones when ``None``.
      where: the pairs that are real.
      axis_name: mapped axes over which the pairs are spread.

    Raises:
      ValueError: where shapes disagree; for a setting outside its range.
    """
    check_beta("published_beta", beta)
    margins, mask = log_ratio_margins("published_beta", chosen_log_ratios, rejected_log_ratios, where)
    margins, options = reductions.detach(beta * margins), {"where": mask, "axis_name": axis_name}
    of_batch = margin_moments(margins, **options)
    used = jax.tree.map(lambda past, now: jnp.where(moments.batches > 0, past, now), moments, of_batch)
    kept = typical_pairs(margins, used, kept_fraction, key=key, **options)
    chosen_beta = batch_beta(margins, used, beta, sensitivity, **options)
    past = used._replace(batches=moments.batches)
    return DynamicBeta(chosen_beta, kept, update_margin_moments(past, of_batch, momentum))


def released_beta(
    chosen_log_ratios: Float[Array, "*E"],
    rejected_log_ratios: Float[Array, "*E"],
    beta: Scalar,
    moments: MarginMoments,
    *,
    sensitivity: float = 0.6,
    kept_fraction: float = 0.8,
    momentum: float = 0.9,
    key: Array | None = None,
    where: Bool[Array, "*E"] | None = None,
    axis_name: AxisName = None,
) -> DynamicBeta:
    """beta and the kept pairs of a batch as in the authors' code, by Delta_i and moments that this batch has entered.

    Arguments and errors as for :func:`published_beta`; the code draws the kept pairs, so give a key.
    """
    check_beta("released_beta", beta)
    margins, mask = log_ratio_margins("released_beta", chosen_log_ratios, rejected_log_ratios, where)
    margins, options = reductions.detach(margins), {"where": mask, "axis_name": axis_name}
    moments = update_margin_moments(moments, margin_moments(margins, bessel=True, **options), momentum)
    kept = typical_pairs(margins, moments, kept_fraction, key=key, **options)
    chosen_beta = batch_beta(margins, moments, beta, sensitivity, where=kept, axis_name=axis_name)
    return DynamicBeta(chosen_beta, kept, moments)


def beta_dpo_loss(
    chosen_log_ratios: Float[Array, "*E"],
    rejected_log_ratios: Float[Array, "*E"],
    beta: Float[Array, ""] | Float[Array, "*E"],
    kept: Bool[Array, "*E"],
) -> Float[Array, "*E"]:
    """-log sigma(beta Delta), (6), of the kept pairs at the beta of their batch; nothing flows through either.

    Args:
      chosen_log_ratios: as for :func:`gempi_jax.losses.dpo_loss`.
      rejected_log_ratios: the same of y_l.
      beta: of the batch, or of each pair, so that it may be sliced with them; detached here.
      kept: the pairs that count; 0 elsewhere.

    Raises:
      ValueError: where shapes disagree.
    """
    margins, mask = log_ratio_margins("beta_dpo_loss", chosen_log_ratios, rejected_log_ratios, kept)
    return reward_model_loss(reductions.detach(beta) * margins, where=mask)
