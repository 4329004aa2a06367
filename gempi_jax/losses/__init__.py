"""Terms of M-steps: surrogates (PPO), preferences (DPO and its kin), group fits, regressions, critics, reward models.

Plain functions of log-probabilities, rewards and values.  Losses are unreduced: one term for each example (or for each
group, where a group is fitted together), 0 where ``where`` masks it, to be minimised.  An M-step sums them and divides
by the counts of the whole update, so that micro-batches, devices and updates add up exactly.  Whatever the literature
holds fixed is detached inside.

Statistics of a batch that an E-step needs, and what is no mean over examples (MaxMin, VIREL), are reduced;
``axis_name`` then reduces over mapped devices: in ``jax.shard_map`` the gradient is the whole batch's; in legacy
``jax.pmap``, whose sums count once per device in a gradient, average the gradients.
"""

from gempi_jax.losses.dynamic_beta import (
    DynamicBeta,
    MarginMoments,
    batch_beta,
    beta_dpo_loss,
    initial_moments,
    margin_moments,
    published_beta,
    released_beta,
    typical_pairs,
    update_margin_moments,
)
from gempi_jax.losses.elbo import expected_values, joint_log_probs, virel_decomposition, virel_elbo
from gempi_jax.losses.group import forward_softmax, nca_loss, reverse_softmax
from gempi_jax.losses.population import (
    datum_responsibilities,
    max_min_weights,
    population_utilities,
    responsibilities,
    update_log_prior,
    worst_population,
)
from gempi_jax.losses.preference import conservative_dpo_loss, dpo_loss, implicit_reward, ipo_loss, robust_dpo_loss
from gempi_jax.losses.ratios import kl_terms, log_ratios, sequence_log_ratios
from gempi_jax.losses.regression import (
    centred_regression,
    fitted_baseline,
    fitted_regression,
    group_mean,
    log_mean_exp,
    log_quantile_baseline,
    log_ratio_regression,
    pair_regression,
    quantile_baseline,
)
from gempi_jax.losses.residual import (
    bellman_residuals,
    boltzmann_log_policy,
    residual_temperature,
    virel_actor_loss,
    virel_critic_loss,
    virel_sampled_actor_loss,
)
from gempi_jax.losses.reward import bradley_terry, reward_model_loss
from gempi_jax.losses.surrogate import ClipIndicators, clip_indicators, clipped_surrogate
from gempi_jax.losses.value import clipped_value_loss, value_loss

__all__ = [
    "ClipIndicators",
    "DynamicBeta",
    "MarginMoments",
    "batch_beta",
    "bellman_residuals",
    "beta_dpo_loss",
    "boltzmann_log_policy",
    "bradley_terry",
    "centred_regression",
    "clip_indicators",
    "clipped_surrogate",
    "clipped_value_loss",
    "conservative_dpo_loss",
    "datum_responsibilities",
    "dpo_loss",
    "expected_values",
    "fitted_baseline",
    "fitted_regression",
    "forward_softmax",
    "group_mean",
    "implicit_reward",
    "initial_moments",
    "ipo_loss",
    "joint_log_probs",
    "kl_terms",
    "log_mean_exp",
    "log_quantile_baseline",
    "log_ratio_regression",
    "log_ratios",
    "margin_moments",
    "max_min_weights",
    "nca_loss",
    "pair_regression",
    "population_utilities",
    "published_beta",
    "quantile_baseline",
    "released_beta",
    "residual_temperature",
    "responsibilities",
    "reverse_softmax",
    "reward_model_loss",
    "robust_dpo_loss",
    "sequence_log_ratios",
    "typical_pairs",
    "update_log_prior",
    "update_margin_moments",
    "value_loss",
    "virel_actor_loss",
    "virel_critic_loss",
    "virel_decomposition",
    "virel_elbo",
    "virel_sampled_actor_loss",
    "worst_population",
]
