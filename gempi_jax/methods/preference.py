"""Preference methods: DPO (6) and its variants for over-fitting, noisy labels and batches of uneven quality.

A pair is a group whose best and worst sample by reward are chosen and rejected; a group whose samples tie is none, and
is counted in ``estep/flat_groups``.  Where pairs come from is the run's to say:

* online: best and worst of the K completions that pi_t writes in each iteration (source ``rollout``);
* offline, written by the model that training starts from: the same with an ``old_period`` of no fewer iterations than
  the run has, so that pi_t, which is pi_ref then, keeps writing;
* offline, of a dataset: rows ``prompt, chosen, rejected`` (source ``preferences``) are groups with K = 2 and rewards
  [1, 0].
"""

import functools

from gempi_jax import losses
from gempi_jax.em import GempiSpec, Paired, Reduction, Scope
from gempi_jax.methods.base import Method
from gempi_jax.methods.fits import Preference
from gempi_jax.methods.gempi import from_spec

PAIRS = GempiSpec(weighting=Paired(), scope=Scope.GROUP)
"""The E-step of preferences: signs of the best and the worst sample of each group, a weight of 1/P for each pair."""


def dpo(beta: float = 0.1) -> Method:
    """-log sigma(beta (rho_w - rho_l)), (6), rho = log pi_theta - log pi_ref summed over tokens; Rafailov et al. 2023.

    RL-EM's target, left implicit: the optimum is pi_ref exp(r / beta) / Z for the rewards of a Bradley-Terry model.

    Args:
      beta: price of KL(pi || pi_ref), units of reward per nat [0.1].
    """
    return from_spec(PAIRS, Preference(losses.dpo_loss, beta))


def ipo(beta: float = 0.1, *, reduction: Reduction = Reduction.SUM) -> Method:
    """(rho_w - rho_l - 1 / (2 beta))^2: a margin that stays bounded on separable pairs; Azar et al. 2023, (17).

    The paper sums rho over tokens.  TRL takes means, on the authors' word, which makes beta a price per token.

    Args:
      beta: tau of the paper > 0, per nat [0.1].
      reduction: sum or mean over an answer's tokens.
    """
    return from_spec(PAIRS, Preference(losses.ipo_loss, beta, reduction))


def rdpo(beta: float = 0.1, label_noise: float = 0.1) -> Method:
    """[(1 - e) L(w, l) - e L(l, w)] / (1 - 2 e), L of DPO: without bias for labels flipped at a known rate e.

    Chowdhury et al. 2024, TRL's "robust".  Not bounded from below.

    Args:
      beta: price of KL(pi || pi_ref) [0.1].
      label_noise: e in [0, 1/2), the share of flipped labels; 0 is DPO.
    """
    return from_spec(PAIRS, Preference(functools.partial(losses.robust_dpo_loss, label_noise=label_noise), beta))


def cdpo(beta: float = 0.1, label_noise: float = 0.1) -> Method:
    """(1 - e) L(w, l) + e L(l, w), L of DPO: smoothed labels, with the finite optimum sigma(beta Delta) = 1 - e.

    Mitchell 2023, a note.

    Args:
      beta: price of KL(pi || pi_ref) [0.1].
      label_noise: e in [0, 1/2); 0 is DPO.
    """
    return from_spec(PAIRS, Preference(functools.partial(losses.conservative_dpo_loss, label_noise=label_noise), beta))
