"""Weighted likelihood as published since: targets on successes, on groups, on two sets, on contrasts."""

from gempi_jax.em import (
    Anchor,
    GempiSpec,
    GroupCentred,
    Lagrangian,
    LineSearch,
    Penalty,
    Reduction,
    Scope,
    Signed,
    Tilted,
    TopK,
    Unconstrained,
)
from gempi_jax.em.choices import Dual, Opposed, Solved, Threshold, TwoSets
from gempi_jax.em.transforms import RatioToMean
from gempi_jax.methods.base import Method
from gempi_jax.methods.fits.truncated import TruncatedLikelihood
from gempi_jax.methods.gempi import from_spec
from gempi_jax.methods.vmpo import FORWARD_KL, LINE_SEARCH, SOLVED, vmpo


def mpo(
    epsilon: float = 0.1,
    epsilon_alpha: float = 0.01,
    *,
    temperature: Dual | Solved = SOLVED,
    enforced: Lagrangian | LineSearch = LINE_SEARCH,
    reduction: Reduction = Reduction.SUM,
) -> Method:
    """MPO (Abdolmaleki et al. 2018) on language models: a state is a prompt, its sampled actions the K completions.

    Weights are normalised within each group, the one temperature meets the budget over the mean of the groups' duals
    (with group scope, (25) averages them), and the M-step has V-MPO's KL trust region.

    Args:
      epsilon: budget of the mean KL(q || pi_t), nats.
      epsilon_alpha: budget of the trust region, nats per term.
      temperature: ``Solved()`` or ``Dual()``.
      enforced: how the trust region's budget is met.
      reduction: sum or mean over an example's terms.
    """
    return vmpo(
        epsilon,
        epsilon_alpha,
        1.0,
        temperature=temperature,
        enforced=enforced,
        scope=Scope.GROUP,
        reduction=reduction,
    )


def rest_em(threshold: float = 0.5, *, reduction: Reduction = Reduction.SUM) -> Method:
    """ReST-EM (Singh et al. 2023): likelihood on the samples whose reward reaches a threshold, all alike.

    The paper samples once and trains from the base model each time: a phase with ``old_period`` as long as one of its
    rounds keeps the sampler that long.  With old_period = 1 it is filtered likelihood on the policy's own samples.

    Args:
      threshold: of the reward; the paper's is success, r = 1.
      reduction: sum or mean over an example's terms.
    """
    return from_spec(GempiSpec(filter=Threshold(threshold), reduction=reduction))


def raft(fraction: float = 0.25, *, reduction: Reduction = Reduction.SUM) -> Method:
    """RAFT (Dong et al. 2023): likelihood on the best of each group.  lambda -> 0 in the group.

    Args:
      fraction: of a group; at most 1 / K keeps the best one alone, as published.
      reduction: sum or mean over an example's terms.
    """
    return from_spec(GempiSpec(filter=TopK(fraction, by_group=True), reduction=reduction))


def max_rl(*, reduction: Reduction = Reduction.SUM) -> Method:
    """MaxRL (2602.02710): w = (r - mean) / mean of the group, 0 without success, for rewards of 0 and 1.

    Its expectation is grad p (1 - (1 - p)^(K - 1)) / p with the success rate p: the gradient of log p to order K - 1.
    [K 16]

    Args:
      reduction: sum or mean over an example's terms.
    """
    return from_spec(GempiSpec(weighting=Signed(), transform=RatioToMean(), reduction=reduction))


def var(beta: float = 0.2, *, scope: Scope = Scope.BATCH, reduction: Reduction = Reduction.SUM) -> Method:
    """VAR (2502.11026): q in proportion to pi_ref(y) exp(r / beta) over the samples that are there, Z in the batch.

    The samples are a dataset's, of no policy in particular: log b := 0.  Of samples of pi_ref itself pi_ref counts
    twice; use :func:`gempi_jax.methods.rl_em` there.

    Args:
      beta: price of KL(q || pi_ref), units of the reward.
      scope: of Z: batch, as published, or group.
      reduction: sum or mean over an example's terms.
    """
    spec = GempiSpec((Anchor("ref", beta),), weighting=Tilted(counting=True), scope=scope, reduction=reduction)
    return from_spec(spec)


def pmpo(
    alpha: float = 0.5, beta: float = 0.5, fraction: float = 0.5, *, reduction: Reduction = Reduction.SUM
) -> Method:
    """PMPO (2410.04166): the best of each group up, its worst down, near pi_ref by beta KL(pi_ref || pi_theta).

    On a finite support the optimum is in proportion to alpha q+ - (1 - alpha) q- + beta pi_ref where that is positive,
    and there is none where it is negative somewhere. [best 2 and worst 2 of 4; alpha = 0 needs beta > 1]

    Args:
      alpha: share of the best.
      beta: price of the KL per term; 0 for none.
      fraction: of a group that is best, and that is worst.
      reduction: sum or mean over an example's terms.
    """
    penalty = Penalty(beta, FORWARD_KL, towards="ref") if beta else Unconstrained()
    weighting = TwoSets(alpha, fraction)
    return from_spec(GempiSpec(weighting=weighting, transform=GroupCentred(), projection=penalty, reduction=reduction))


def wd1(lam: float = 1.0, beta: float = 0.0, *, reduction: Reduction = Reduction.SUM) -> Method:
    """wd1 (2507.08838): w = softmax(psi A) - softmax(-psi A) over the batch, psi = 1 / (lam + beta), A = r - mean(r).

    The paper samples from the mixture in proportion to pi_t^lam pi_ref^beta, so that no ratio stands in w; here pi_t
    samples, which is that at beta = 0. [beta 0, lam 1]

    Args:
      lam: price of the KL to pi_t.
      beta: price of the KL to pi_ref.
      reduction: sum or mean over an example's terms.
    """
    weighting = Opposed(lam + beta)
    return from_spec(GempiSpec(weighting=weighting, transform=GroupCentred(), reduction=reduction))


def topr() -> Method:
    """TOPR (2503.14286): REINFORCE whose negative samples weigh min(1, pi_theta / pi_t) of the sequence, detached.

    Signs are those of the reward less the phase's baseline: zero for the paper's rewards of 1 and -1.
    """
    return from_spec(GempiSpec(weighting=Signed()), TruncatedLikelihood())
