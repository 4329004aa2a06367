"""Fits of the policy's scores over a group of K samples to a target distribution over the same samples.

Scores s_i are log pi_theta(y_i) or beta (log pi_theta - log pi_ref)(y_i), summed over tokens; samples come last.
p = softmax(s) over the real samples of the group, q the target, detached.  A group is never cut: its terms are one
number, to be averaged over the groups of the update.

| method   | scores              | log q, up to a constant     | fit             |
|----------|---------------------|-----------------------------|-----------------|
| TPO      | log pi_theta        | log p_t + z-score(r) / eta  | forward softmax |
| InfoNCA  | beta rho to pi_ref  | r / alpha                   | forward softmax |
| NCA      | beta rho to pi_ref  | r / alpha                   | nca             |
| EXO      | beta rho to pi_ref  | r / beta_r                  | reverse softmax |

Targets are log-probabilities: what underflows as a probability is still ordered, and the reverse fit needs log q.
"""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.losses.reward import bradley_terry
from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import same_shape
from gempi_jax.numerics.masked import real
from gempi_jax.types import Array


def forward_softmax(
    scores: Float[Array, "*G K"],
    target_log_probs: Float[Array, "*G K"],
    *,
    where: Bool[Array, "*G K"] | None = None,
) -> Float[Array, "*G"]:
    """-sum_i q_i log p_i, the cross-entropy of the group: KL(q || p) plus the entropy of q.

    Its gradient in the scores is p - q (of a target that sums to 1), bounded, and 0 at the match.  For K = 2 and a hard
    label it is DPO's term, with (1 - e, e) cDPO's (Chen et al. 2024, InfoNCA; TPO).

    Args:
      scores: s_i, nats; only their differences within the group matter.
      target_log_probs: log q_i, detached here; -inf where q_i = 0.  A group without target, all -inf, has loss 0.
      where: the samples that are real; a group without any has loss 0.

    Raises:
      ValueError: where shapes disagree.
    """
    log_p, log_q, mask = _distributions("forward_softmax", scores, target_log_probs, where)
    wanted = mask & (log_q > -jnp.inf)
    q, log_p = jnp.where(wanted, jnp.exp(log_q), 0.0), jnp.where(wanted, log_p, 0.0)
    return -jnp.sum(q * log_p, axis=-1)


def reverse_softmax(
    scores: Float[Array, "*G K"],
    target_log_probs: Float[Array, "*G K"],
    *,
    where: Bool[Array, "*G K"] | None = None,
) -> Float[Array, "*G"]:
    """KL(p || q) = sum_i p_i (log p_i - log q_i): it seeks modes where the forward fit covers them (EXO, 2024).

    Its gradient in the scores is p_i (log p_i - log q_i - KL(p || q)); the optimum p = q is the forward fit's.

    Args:
      scores: s_i, nats; only their differences within the group matter.
      target_log_probs: log q_i, detached here, finite for every real sample: the loss is infinite where q_i = 0, so
        that a pair has the target (1 - e, e) with e > 0.
      where: the samples that are real; a group without any has loss 0.

    Raises:
      ValueError: where shapes disagree.
    """
    log_p, log_q, mask = _distributions("reverse_softmax", scores, target_log_probs, where)
    possible = mask & (log_p > -jnp.inf)
    log_p, log_q = (jnp.where(possible, x, 0.0) for x in (log_p, log_q))
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1, where=possible)


def nca_loss(
    scores: Float[Array, "*G K"],
    target_log_probs: Float[Array, "*G K"],
    *,
    where: Bool[Array, "*G K"] | None = None,
) -> Float[Array, "*G"]:
    """-sum_i q_i log sigma(s_i) - mean_i log sigma(-s_i): samples of q against as many noise samples of the base.

    Unlike a softmax it sees the scores themselves: its optimum is s_i = log(K q_i), so that a chosen response does not
    lose likelihood together with the rejected one (Chen et al. 2024, NCA).

    Args:
      scores: s_i = beta (log pi_theta - log pi_ref)(y_i).
      target_log_probs: log q_i, detached here.
      where: the samples that are real, K of each group; a group without any has loss 0.

    Raises:
      ValueError: where shapes disagree.
    """
    same_shape("nca_loss", scores=scores, target_log_probs=target_log_probs, where=where)
    mask = real(scores, where)
    scores = jnp.where(mask, scores, 0.0)
    q = jnp.exp(reductions.detach(jnp.where(mask, target_log_probs, -jnp.inf)))
    drawn = jnp.sum(q * bradley_terry(scores), axis=-1)
    return -drawn - reductions.mean(bradley_terry(-scores), where=mask, axis=-1)


def _distributions(place, scores, target_log_probs, where):
    """log p, detached log q and the mask; 0 and -inf where masked."""
    same_shape(place, scores=scores, target_log_probs=target_log_probs, where=where)
    mask = real(scores, where)
    total = reductions.logsumexp(scores, where=mask, axis=-1, keepdims=True)
    log_p = jnp.where(mask, scores, 0.0) - jnp.where(total > -jnp.inf, total, 0.0)
    log_q = reductions.detach(jnp.where(mask, target_log_probs, -jnp.inf))
    return jnp.where(mask, log_p, 0.0), log_q, mask
