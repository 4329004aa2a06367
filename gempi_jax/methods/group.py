"""Fits over the group of a prompt's samples: TPO, InfoNCA and NCA, EXO.

All compare the K samples of a prompt with each other: a group whose rewards tie has weight 0.  Where the groups come
from is said in :mod:`gempi_jax.methods.preference`; pairs of a dataset are groups with K = 2 and rewards [1, 0].
"""

import enum

from gempi_jax import losses
from gempi_jax.em import Compared, GempiSpec, GroupStandardized, Scope
from gempi_jax.methods.base import Method
from gempi_jax.methods.fits import Boltzmann, GroupSoftmax, PairLabels
from gempi_jax.methods.gempi import from_spec
from gempi_jax.methods.preference import PAIRS

GROUPS = GempiSpec(weighting=Compared(), scope=Scope.GROUP)
"""The E-step of group fits: a weight of 1/P for each group that tells something; the target is the fit's."""


class Contrast(enum.Enum):
    """What samples of a group are told apart from: each other (InfoNCA), or samples of the base (NCA)."""

    INFO_NCA = "info_nca"
    NCA = "nca"


CONTRASTS = {Contrast.INFO_NCA: losses.forward_softmax, Contrast.NCA: losses.nca_loss}


def tpo(eta: float = 1.0) -> Method:
    """Forward KL of the group softmax of log pi_theta to q_i ~ p_i exp(u_i / eta), 2604.06159.

    p is the group softmax of log pi_t, summed over tokens without a norm of length; u the z-score of the group's
    rewards by the population's standard deviation, 0 where they tie.  q stays for all updates on the batch; the
    gradient in the scores is p_theta - q, 0 at the match.

    Args:
      eta: temperature > 0, units of standard deviations [1].
    """
    target = Boltzmann(eta, GroupStandardized(0.0, ddof=0), policy="old")
    return from_spec(GROUPS, GroupSoftmax(target, losses.forward_softmax, base=None))


def info_nca(beta: float = 0.01, alpha: float = 1.0, *, contrast: Contrast = Contrast.INFO_NCA) -> Method:
    """-sum_i q_i log softmax(beta rho)_i, q = softmax(r / alpha), rho to pi_ref summed over tokens; Chen et al. 2024.

    For K = 2 and a hard label (alpha -> 0) it is DPO, with q = (1 - e, e) cDPO.  NCA, the same paper's, is
    -sum_i q_i log sigma(beta rho_i) - mean_i log sigma(-beta rho_i), which sees rho itself and not its differences
    alone, so that chosen samples do not lose likelihood together with the others.

    Args:
      beta: price of KL(pi || pi_ref), units of reward per nat [0.01, with K = 4].
      alpha: temperature of the target > 0, units of the rewards, which it has to suit: 0.1 makes rewards of 0 and 1
        nearly hard labels.
      contrast: info_nca or nca.
    """
    return from_spec(GROUPS, GroupSoftmax(Boltzmann(alpha), CONTRASTS[contrast], beta))


def exo(beta: float = 0.1, epsilon: float = 1e-3, *, beta_r: float | None = None) -> Method:
    """sum_i p_i (log p_i - log q_i), p = softmax(beta rho), rho to pi_ref summed over tokens; Ji et al. 2024.

    The reverse KL of the group, which seeks a mode where DPO's covers all; both have the optimum p = q.  Of a pair, the
    group's best and worst, q = (1 - epsilon, epsilon); with ``beta_r``, q = softmax(r / beta_r) over all K.

    Args:
      beta: price of KL(pi || pi_ref), units of reward per nat [0.1].
      epsilon: the rejected sample's probability, in (0, 1/2) [1e-3]; unread with ``beta_r``.
      beta_r: temperature of the rewards' softmax > 0; ``None`` for pairs.
    """
    if beta_r is None:
        return from_spec(PAIRS, GroupSoftmax(PairLabels(epsilon), losses.reverse_softmax, beta))
    return from_spec(GROUPS, GroupSoftmax(Boltzmann(beta_r), losses.reverse_softmax, beta))
