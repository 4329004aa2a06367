"""Weighted likelihood as published since: targets on successes, on groups, on two sets, on contrasts."""

from gempi_jax.em import (
    Anchor,
    Dual,
    GempiSpec,
    GroupCentred,
    GroupRank,
    Lagrangian,
    LineSearch,
    Opposed,
    Penalty,
    RatioToMean,
    Reduction,
    Rewards,
    Scope,
    Signed,
    Solved,
    Threshold,
    Tilted,
    TokenDivergence,
    TopK,
    TwoSets,
    Unconstrained,
)
from gempi_jax.methods.base import Method
from gempi_jax.methods.bounds import with_bounds
from gempi_jax.methods.fits.truncated import TruncatedLikelihood
from gempi_jax.methods.gempi import from_spec
from gempi_jax.methods.vmpo import FORWARD_KL, LINE_SEARCH, SOLVED, vmpo


def mpo(
    epsilon: float = 0.1,
    epsilon_alpha: float | tuple[float, ...] = 0.01,
    *,
    temperature: Dual | Solved = SOLVED,
    trust_region: TokenDivergence = FORWARD_KL,
    enforced: Lagrangian | LineSearch = LINE_SEARCH,
    epsilon_bounds: float | None = None,
    reduction: Reduction = Reduction.SUM,
) -> Method:
    """MPO (Abdolmaleki et al. 2018, 1806.06920 and 1812.02256): q in proportion to pi_t e^(Q / eta) in each state.

    A group is a state with K actions of pi_t, or all of its actions; of a language model a prompt with its K
    completions, whose rewards are the Q.  Weights are normalised within each group, the one temperature meets the
    budget over the mean of the groups' duals (with group scope, (25) averages them), and the M-step has V-MPO's KL
    trust region.  In control Q is the world's, fitted to a replay: :mod:`gempi_jax.runners.offpolicy`.

    Args:
      epsilon: budget of the mean KL(q || pi_t), nats.
      epsilon_alpha: budget of the trust region, nats per term; (mean, covariance) for a Gaussian policy.
      temperature: ``Solved()`` or ``Dual()``.
      trust_region: D_M.
      enforced: how the trust region's budget is met.
      epsilon_bounds: budget of the price of actions outside their bounds, see :func:`.bounds.with_bounds`; the authors'
        is 1e-3, ``None`` leaves it out.
      reduction: sum or mean over an example's terms.
    """
    method = vmpo(
        epsilon,
        epsilon_alpha,
        1.0,
        temperature=temperature,
        trust_region=trust_region,
        enforced=enforced,
        scope=Scope.GROUP,
        reduction=reduction,
    )
    return method if epsilon_bounds is None else with_bounds(method, epsilon_bounds)


def rest_em(threshold: float = 0.5, *, reduction: Reduction = Reduction.SUM) -> Method:
    """ReST-EM (Singh et al. 2023, 2312.06585): likelihood of the samples whose reward reaches a threshold, all alike.

    The gradient of E[r log pi_theta] for a reward of 0 or 1: failures weigh 0, and so do prompts without a success;
    those without a failure count in full, since samples are not compared within their prompt.  The paper samples a
    data set from one policy and then fits the *base* to it anew: a phase whose ``old_period`` is as long as a round
    keeps the sampler that long, but goes on from where the policy is.  Its limit of 10 successes a prompt is K here.
    [r = 1]

    Args:
      threshold: the least reward that is kept.
      reduction: sum or mean over an example's terms.
    """
    return from_spec(GempiSpec(filter=Threshold(threshold), transform=Rewards(), reduction=reduction))


def raft(fraction: float = 0.01, *, reduction: Reduction = Reduction.SUM) -> Method:
    """RAFT (Dong et al. 2023, 2304.06767): likelihood of the best of each prompt's K samples.

    The limit of q in proportion to pi_t e^(r / lambda) in the group as lambda goes to 0.  Of several that tie for the
    best the first is kept, where the limit would share; a group of equal rewards has no best. [1 of K]

    Args:
      fraction: of a group; less than 2 / K keeps the best one alone, as published.
      reduction: sum or mean over an example's terms.
    """
    return from_spec(GempiSpec(filter=TopK(fraction, by_group=True), transform=GroupCentred(), reduction=reduction))


def max_rl(*, reduction: Reduction = Reduction.SUM) -> Method:
    """MaxRL (2602.02710): w = (r - mean) / mean of the prompt's K rewards, 0 without a success; r is 0 or 1.

    With p the rate of success its expectation is grad p (1 - (1 - p)^(K - 1)) / p, the gradient of log p to order
    K - 1.  Without the mean that is taken off it would be of order K, and groups without a failure would move the
    policy. [K 16]

    Args:
      reduction: sum over a completion's tokens, as published, or their mean.
    """
    return from_spec(GempiSpec(weighting=Signed(), transform=RatioToMean(), reduction=reduction))


def var(beta: float = 0.2, *, scope: Scope = Scope.BATCH, reduction: Reduction = Reduction.SUM) -> Method:
    """VAR (2502.11026): q in proportion to pi_ref(y) e^(r / beta) over the completions that there are, Z in the batch.

    :func:`rl_em` with log b := 0: for offline completions of an unknown policy.  Those that pi_t or pi_ref wrote are
    draws, which this weighs by pi_ref once too often: use :func:`rl_em` on them.  Where completions are long, the
    likeliest of the scope have nearly all weight.

    Args:
      beta: price of KL(q || pi_ref), units of the reward.
      scope: of Z: batch, as published, or group.
      reduction: sum or mean over an example's terms.
    """
    weighting = Tilted(counting=True)
    spec = GempiSpec((Anchor("ref", beta),), transform=Rewards(), weighting=weighting, scope=scope, reduction=reduction)
    return from_spec(spec)


def pmpo(
    alpha: float = 0.5,
    beta: float = 0.5,
    *,
    trust_region: TokenDivergence = FORWARD_KL,
    scope: Scope = Scope.GROUP,
    reduction: Reduction = Reduction.SUM,
) -> Method:
    """PMPO (Abdolmaleki et al. 2024, 2410.04166): the better and the worse half of a prompt's samples, a mean each.

    The loss is -alpha mean_better log pi + (1 - alpha) mean_worse log pi + beta KL(pi_ref || pi).  On a finite support
    its optimum is proportional to c = alpha q+ - (1 - alpha) q- + beta pi_ref where c >= 0, and there is none
    elsewhere: alpha = 0 needs beta > 1.  alpha = 1 and beta = 0 is ReST-EM by prompt.  The halves lie above and below
    a group's middle rank, so that samples that tie are in one of them: successes and failures where rewards are
    binary. [best 2 and worst 2 of 4]

    Args:
      alpha: share of the better half.
      beta: price of KL(pi_ref || pi) per term, a mean over all terms; 0 leaves it out.
      trust_region: that divergence.
      scope: group, as published, or batch for means over all better and all worse samples.
      reduction: sum or mean over an example's terms.
    """
    penalty = Penalty(beta, trust_region, towards="ref") if beta else Unconstrained()
    return from_spec(
        GempiSpec(projection=penalty, scope=scope, transform=GroupRank(), weighting=TwoSets(alpha), reduction=reduction)
    )


def wd1(
    lam: float = 1.0, beta: float = 0.0, *, scope: Scope = Scope.BATCH, reduction: Reduction = Reduction.SUM
) -> Method:
    """wd1 (2507.08838): w = softmax(psi A) - softmax(-psi A) over the batch, psi = 1 / (lam + beta), A = r - mean.

    DAR's target for A less that for -A.  The paper samples of the mixture pi_t^(psi lam) pi_ref^(psi beta), so that no
    ratio is in its weights; here pi_t samples, and the ratio to that mixture is in them: 1 where beta is 0.  Groups of
    equal rewards are left out, where the paper weighs them by what both normalisers differ in. [beta 0, lam 1]

    Args:
      lam: price of KL(q || pi_t), units of the advantages.
      beta: price of KL(q || pi_ref); 0 leaves it out.
      scope: batch, as published, or group.
      reduction: sum or mean over an example's terms.
    """
    anchors = (*((Anchor("ref", beta),) if beta else ()), Anchor("old", lam))
    return from_spec(
        GempiSpec(anchors, scope=scope, transform=GroupCentred(), weighting=Opposed(), reduction=reduction)
    )


def topr(less: float = 0.5, *, reduction: Reduction = Reduction.SUM) -> Method:
    """TOPR (Le Roux et al. 2025, 2503.14286): REINFORCE in which failures count by min(1, pi_theta / pi_t), detached.

    w = (r - c) / N; where r < c it is multiplied by the truncated ratio of the whole completion (ROLL's code has the
    ratio of each token), so that what the policy has come to avoid pushes it no further, however often it is used.
    Successes have no ratio.  On the first pass, and on successes always, it is REINFORCE with the baseline c.

    Args:
      less: c, the middle of rewards of 0 and 1; 0 for rewards of both signs, as published.
      reduction: sum over a completion's tokens, as published, or their mean.
    """
    return from_spec(GempiSpec(weighting=Signed(), transform=Rewards(less)), TruncatedLikelihood(reduction))
