"""PPO, section 4: the clipped surrogate on the ratio of two policies, per step or per sequence.

Not for dropout: r_t(theta) divides a pass of pi_theta by a pass of pi_old, and dropped units move the first but not the
second.  Before the first update, where the ratio should be exactly 1, it is not, some terms are clipped already, and
the gradient is that of a policy which nobody sampled from.  Without dropout the first pass has ratio 1, clip fraction 0
and the plain policy gradient.  The M-steps of :mod:`gempi_jax.em` have no ratio and no such limit.

The entropy bonus S is :func:`gempi_jax.numerics.categorical_entropy`, the KL estimate :func:`gempi_jax.numerics.k1`.
"""

import math

import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import require, same_shape
from gempi_jax.numerics.masked import real
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array


def sequence_ratio(
    log_probs: Float[Array, "*E L"], old_log_probs: Float[Array, "*E L"], *, where: Bool[Array, "*E L"] | None = None
) -> Float[Array, "*E"]:
    """r_seq(theta) = exp(sum_t (l_theta,t - l_old,t)), the product of an example's ratios.

    For sequence-level PPO give :func:`clipped_surrogate` the summed log-probs instead: it never leaves log space
    where the ratio would overflow.

    Args:
      log_probs: l_theta,t = log pi_theta(a_t | s_t) of each term, nats.
      old_log_probs: l_old,t of the policy that sampled, detached here.
      where: the terms that are real.

    Raises:
      ValueError: where shapes disagree.
    """
    same_shape("sequence_ratio", log_probs=log_probs, old_log_probs=old_log_probs, where=where)
    return jnp.exp(jnp.sum(_log_ratios(log_probs, old_log_probs, real(log_probs, where)), axis=-1))


def clipped_surrogate(
    log_probs: Float[Array, "*E"],
    old_log_probs: Float[Array, "*E"],
    advantages: Float[Array, "*E"],
    epsilon: float,
    *,
    where: Bool[Array, "*E"] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    """-L^CLIP = -mean min(r A, clip(r, 1 - eps, 1 + eps) A), r = exp(l_theta - l_old): a loss, to be minimised.

    The document maximises L^CLIP.  Per step (or token) with one advantage for each; per sequence with log-probs that
    are summed over the tokens, which makes r the r_seq of :func:`sequence_ratio`.

    Args:
      log_probs: l_theta of what was sampled, nats, from a pass without dropout.
      old_log_probs: l_old, under the policy that sampled, detached here.
      advantages: A, detached here.
      epsilon: eps in (0, 1); 0.2 is usual.
      where: the examples that are real.
      axis_name: mapped axes over which the examples are spread.

    Raises:
      ValueError: where shapes disagree; for an epsilon outside (0, 1).
    """
    _check_epsilon("clipped_surrogate", epsilon)
    arrays = {"old_log_probs": old_log_probs, "advantages": advantages, "where": where}
    same_shape("clipped_surrogate", log_probs=log_probs, **arrays)
    mask = real(log_probs, where)
    ratios = _log_ratios(log_probs, old_log_probs, mask)
    advantages = reductions.detach(jnp.where(mask, advantages, 0.0))
    # min(r A, clip(r) A) is r A with r bounded from above where A > 0 and from below where A < 0.  Bounding log r
    # keeps exp from overflowing in the branch that is not taken, whose gradient would be 0 * inf.
    above, below = math.log1p(epsilon), math.log1p(-epsilon)
    bounded = jnp.where(advantages >= 0, jnp.minimum(ratios, above), jnp.maximum(ratios, below))
    return -reductions.mean(jnp.exp(bounded) * advantages, where=mask, axis_name=axis_name)


def clip_fraction(
    log_probs: Float[Array, "*E"],
    old_log_probs: Float[Array, "*E"],
    epsilon: float,
    *,
    where: Bool[Array, "*E"] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    """Share of ratios outside [1 - eps, 1 + eps], whatever the advantage's sign says of them; detached.

    Arguments and errors as for :func:`clipped_surrogate`.
    """
    _check_epsilon("clip_fraction", epsilon)
    same_shape("clip_fraction", log_probs=log_probs, old_log_probs=old_log_probs, where=where)
    mask = real(log_probs, where)
    ratios = reductions.detach(_log_ratios(log_probs, old_log_probs, mask))
    outside = (ratios > math.log1p(epsilon)) | (ratios < math.log1p(-epsilon))
    return reductions.mean(outside.astype(ratios.dtype), where=mask, axis_name=axis_name)


def _log_ratios(log_probs, old_log_probs, mask):
    """log r, 0 where masked: padding may be infinite, and its derivative would be NaN."""
    return jnp.where(mask, log_probs, 0.0) - reductions.detach(jnp.where(mask, old_log_probs, 0.0))


def _check_epsilon(place: str, epsilon: float) -> None:
    require(
        0.0 < epsilon < 1.0,
        f"{place}: epsilon, the width of the clip, must lie in (0, 1) (0.2 is usual), not {epsilon}.",
    )
