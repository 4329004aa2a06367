"""Regressions of log-ratios: OPMD, OAPL, A*-PO, GVPO, REBEL, QRPO and TBA.

All fit scale rho to gain less baseline by squares, rho = log pi_theta(y) - log pi_base(y) summed over tokens; base,
gain and baseline differ.  Those that compare the samples of a prompt need K >= 2, and leave out groups whose rewards
are all equal.  A*-PO and QRPO compare a sample with R rewards of completions that pi_ref writes to the same prompt, do
with K = 1, and leave out prompts all of whose K + R rewards are equal: there QRPO, whose F is then 1, would raise the
likelihood of whatever was written.
"""

from gempi_jax import losses
from gempi_jax.em import Equal, GempiSpec, Scope
from gempi_jax.methods.base import Method
from gempi_jax.methods.fits.regression import (
    Compared,
    Constant,
    GroupMean,
    LogMeanExp,
    Quantile,
    ReferenceLogMeanExp,
    Regression,
    Rewards,
)
from gempi_jax.methods.gempi import from_spec
from gempi_jax.numerics.checks import require

GROUPS = GempiSpec(weighting=Equal(), scope=Scope.GROUP)
"""The E-step where groups are compared: a weight of 1/N for each sample of a group that tells something."""

REFERENCES = GempiSpec(weighting=Equal(by_reference=True))
"""The same where samples are compared with reference rewards."""


def opmd(tau: float = 0.01, *, log_mean_exp: bool = False, by_length: bool = False) -> Method:
    """(tau rho - (r - r-bar))^2, base pi_t: Kimi k1.5 (2501.12599), named online policy mirror descent; 2602.05933.

    The gradient is -2 tau [(r - r-bar) grad log pi - tau/2 grad rho^2].  r-bar is tau log Z to first order only, so
    that the optimum solves tau rho + mu e^rho = r - r-bar, mu of the normalisation, and is not pi_t e^(r / tau) / Z.

    Args:
      tau: price of KL(pi || pi_t), units of reward per nat [OpenKimi 0.01; the paper gives none].
      log_mean_exp: takes tau log mean exp(r / tau) of the group for tau log Z, in place of its mean.
      by_length: divides rho by the number of tokens; OpenKimi does, the paper does not.
    """
    baseline = LogMeanExp(tau) if log_mean_exp else GroupMean()
    return from_spec(GROUPS, Regression(tau, "old", baseline, by_length=by_length))


def oapl(beta_1: float = 1.0, beta_2: float = 1e-3) -> Method:
    """(beta_2 rho - (r - V*))^2, V* = beta_1 log mean exp(r / beta_1) of the group; base the sampler; 2602.19362.

    The sampler is pi_t, which the paper keeps for L = 50 iterations: the phase's ``old_period``, 1 unless it is set.
    At beta_1 = beta_2 and K -> infinity the optimum is pi_t e^(r / beta) / Z; else it is that of OPMD's equation with
    V* for r-bar.

    Args:
      beta_1: temperature of V*, units of reward [1].
      beta_2: price of KL(pi || pi_t), units of reward per nat [1e-3].
    """
    return from_spec(GROUPS, Regression(beta_2, "old", LogMeanExp(beta_1)))


def a_star_po(beta_1: float = 0.5, beta_2: float = 1e-3, *, reference_samples: int = 8) -> Method:
    """(beta_2 rho - (r - V*))^2, base pi_ref, V* = beta_1 log mean exp of R rewards of pi_ref's samples; 2505.20686.

    The paper draws one on-policy completion of each prompt, K = 1, and makes V* offline, once for each prompt.  Here
    pi_ref writes R completions of the iteration's prompts beside the rollout, by the same sampler, which costs R / K
    times its time and rewards; rows of a scored source carry their ``reference_rewards``.

    Args:
      beta_1: temperature of V*, units of reward [0.5].
      beta_2: price of KL(pi || pi_ref), units of reward per nat [1e-3].
      reference_samples: R, completions of each prompt by pi_ref [8].
    """
    return _with_references(Regression(beta_2, "ref", ReferenceLogMeanExp(beta_1)), reference_samples)


def gvpo(beta: float = 0.1) -> Method:
    """1/2 sum_i (beta (rho_i - rho-bar) - (r_i - r-bar))^2 / (K - 1), base pi_t: Zhang et al. 2025, 2504.19599.

    Half the variance of beta rho - r with Bessel's correction: Z cancels, and pi_t e^(r / beta) / Z is an optimum
    whoever sampled.  At rho = 0 the gradient is beta times RLOO's.

    Args:
      beta: price of KL(pi || pi_t), units of reward per nat [0.1].
    """
    return from_spec(GROUPS, Regression(beta, "old", Compared(losses.centred_regression), coefficient=0.5))


def rebel(eta: float = 1.0, kl_price: float = 0.05) -> Method:
    """((rho - rho') / eta - (r - r'))^2 of pairs, base pi_t: Gao et al. 2024, 2404.16767.

    The mean over all pairs of the group, K = 2 in the paper.  The authors' code has ((rho - rho') - eta (r - r'))^2,
    eta^2 times it, and takes k1 to pi_ref off the reward.  IPO's term is eta^2 times it at eta (r - r') = 1 / (2 beta),
    with base pi_ref.

    Args:
      eta: step size, nats per unit of reward [1].
      kl_price: of log pi_t - log pi_ref, taken off the rewards, units of reward per nat [0.05]; 0 takes nothing off.
    """
    require(kl_price >= 0, f"kl_price is {kl_price}: give at least 0, in units of reward per nat.")
    method = from_spec(GROUPS, Regression(1.0 / eta, "old", Compared(losses.pair_regression)))
    return method._replace(needs=method.needs._replace(kl_price=kl_price))


def qrpo(beta: float = 0.1, *, logarithm: bool = False, reference_samples: int = 8) -> Method:
    """(beta rho - (T - beta log Z))^2, base pi_ref, T = F(y) or log F(y): Matrenok et al. 2025, 2507.08068.

    F is the share of R rewards of pi_ref's samples that are at most r: uniform on [0, 1] without ties, so that Z is
    known, beta (e^(1/beta) - 1) for F and beta / (1 + beta) for log F.  With ties, as of rewards of 0 and 1, F is too
    large on average and the regression raises the likelihood of what pi_ref writes anyway.  The authors' code has log F
    by default, and no -1 in the former Z.  What the references cost is said in :func:`a_star_po`.

    Args:
      beta: price of KL(pi || pi_ref), quantiles per nat [0.1].
      logarithm: T = log F; an F of 0 counts as 1 / (2 R).
      reference_samples: R, completions of each prompt by pi_ref.
    """
    baseline = Constant(losses.log_quantile_baseline(beta) if logarithm else losses.quantile_baseline(beta))
    return _with_references(Regression(beta, "ref", baseline, Quantile(logarithm)), reference_samples)


def tba(beta: float = 0.1) -> Method:
    """(log Z + rho - r / beta)^2, base pi_ref, log Z = mean(r / beta - rho) of the group, detached: 2503.18929.

    Trajectory balance, the variance of rho - r / beta in the group: 2 (K - 1) / (K beta^2) times GVPO on pi_ref.  The
    residuals sum to 0, so that detaching log Z changes no gradient.  Any policy may have sampled.

    Args:
      beta: price of KL(pi || pi_ref), units of reward per nat.
    """
    return from_spec(GROUPS, Regression(1.0, "ref", Compared(losses.fitted_regression), Rewards(beta)))


def _with_references(fit: Regression, number: int) -> Method:
    require(number > 0, f"reference_samples is {number}: give at least 1, completions of each prompt by pi_ref.")
    method = from_spec(REFERENCES, fit)
    return method._replace(needs=method.needs._replace(reference_samples=number))
