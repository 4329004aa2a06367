"""Regularised E-steps and M-steps: SFT, AWR, V-MPO, MPO, DAR and RL-EM are settings of one tuple.

:class:`GempiSpec` is the tuple as data, :func:`e_step` turns samples into detached weights, :func:`m_step` turns
weights and log-probabilities into a loss.  Everything they are made of is exported on its own; nothing knows a trainer.
"""

from gempi_jax.em.choices import (
    Anchor,
    Contrast,
    Dual,
    Equal,
    Filter,
    Fixed,
    Identity,
    Level,
    Reduction,
    Scope,
    Score,
    Signed,
    Solved,
    Threshold,
    Tilted,
    TopK,
    TwoSets,
    Weighting,
)
from gempi_jax.em.diagnostics import (
    anchor_kl,
    chi_squared,
    effective_sample_size,
    log_partition_bias,
    truncation_mass,
    weights_entropy,
)
from gempi_jax.em.duals import project_duals, temperature_dual
from gempi_jax.em.e_step import e_step
from gempi_jax.em.m_step import (
    dual_budgets,
    initial_multipliers,
    m_step,
    trust_region_loss,
    weighted_nll,
)
from gempi_jax.em.mixture import anchor_log_ratios, importance_log_weights, log_partition, normalize_weights
from gempi_jax.em.projection import (
    Constraint,
    ExactDivergence,
    GaussianDivergence,
    Lagrangian,
    LineSearch,
    Penalty,
    Projection,
    SampledDivergence,
    TokenDivergence,
    Unconstrained,
)
from gempi_jax.em.spec import GempiSpec
from gempi_jax.em.target import sampled_divergences, solve_target, target_log_weights
from gempi_jax.em.temperature import TemperatureSolution, solve_temperature
from gempi_jax.em.transforms import (
    Given,
    GroupCentred,
    GroupStandardized,
    LeaveOneOut,
    RatioToMean,
    Standardized,
    Transform,
)
from gempi_jax.numerics.selection import top_k_mask

__all__ = [
    "Anchor",
    "Constraint",
    "Contrast",
    "Dual",
    "Equal",
    "ExactDivergence",
    "Filter",
    "Fixed",
    "GaussianDivergence",
    "GempiSpec",
    "Given",
    "GroupCentred",
    "GroupStandardized",
    "Identity",
    "Lagrangian",
    "LeaveOneOut",
    "Level",
    "LineSearch",
    "Penalty",
    "Projection",
    "RatioToMean",
    "Reduction",
    "SampledDivergence",
    "Scope",
    "Score",
    "Signed",
    "Solved",
    "Standardized",
    "TemperatureSolution",
    "Threshold",
    "Tilted",
    "TokenDivergence",
    "TopK",
    "Transform",
    "TwoSets",
    "Unconstrained",
    "Weighting",
    "anchor_kl",
    "anchor_log_ratios",
    "chi_squared",
    "dual_budgets",
    "e_step",
    "effective_sample_size",
    "importance_log_weights",
    "initial_multipliers",
    "log_partition",
    "log_partition_bias",
    "m_step",
    "normalize_weights",
    "project_duals",
    "sampled_divergences",
    "solve_target",
    "solve_temperature",
    "target_log_weights",
    "temperature_dual",
    "top_k_mask",
    "truncation_mass",
    "trust_region_loss",
    "weighted_nll",
    "weights_entropy",
]
