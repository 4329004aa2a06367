"""Array mathematics that everything above shares: reductions, selection, divergences, advantages."""

from gempi_jax.numerics.advantages import gae, n_step_returns, unroll_returns, vtrace
from gempi_jax.numerics.backups import n_step_backup, retrace
from gempi_jax.numerics.divergences import (
    CHI_SQUARED,
    JENSEN_SHANNON,
    KL,
    REVERSE_KL,
    SQUARED_HELLINGER,
    FDivergence,
    alpha_divergence,
)
from gempi_jax.numerics.keys import named_key, named_seed
from gempi_jax.numerics.masked import centre, standardize, telling, variance
from gempi_jax.numerics.policy_divergences import (
    categorical_chi_squared,
    categorical_entropy,
    categorical_jensen_shannon,
    categorical_kl,
    categorical_reverse_kl,
    gaussian_kl,
    k1,
    k2,
    k3,
)
from gempi_jax.numerics.selection import top_k_mask

__all__ = [
    "CHI_SQUARED",
    "JENSEN_SHANNON",
    "KL",
    "REVERSE_KL",
    "SQUARED_HELLINGER",
    "FDivergence",
    "alpha_divergence",
    "categorical_chi_squared",
    "categorical_entropy",
    "categorical_jensen_shannon",
    "categorical_kl",
    "categorical_reverse_kl",
    "centre",
    "gae",
    "gaussian_kl",
    "k1",
    "k2",
    "k3",
    "n_step_backup",
    "n_step_returns",
    "named_key",
    "named_seed",
    "retrace",
    "standardize",
    "telling",
    "top_k_mask",
    "unroll_returns",
    "variance",
    "vtrace",
]
