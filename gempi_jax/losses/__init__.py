"""Objectives that are no points of the tuple: PPO, preferences (DPO and its kin), reward models, MaxMin and VIREL.

Plain functions of log-probabilities, rewards and values.  Each returns a mean over the real examples, to be minimised:
the loss of a part (a micro-batch) enters an update by its share of the examples.  Whatever the document holds fixed is
detached inside.  ``axis_name`` reduces over mapped devices: in ``jax.shard_map`` the gradient of the loss is the whole
batch's; in legacy ``jax.pmap``, whose sums count once per device in a gradient, average the gradients.
"""

from gempi_jax.losses.dynamic_beta import (
    MarginMoments,
    batch_beta,
    beta_dpo_loss,
    margin_moments,
    typical_pairs,
    update_margin_moments,
)
from gempi_jax.losses.elbo import expected_values, joint_log_probs, virel_decomposition, virel_elbo
from gempi_jax.losses.population import (
    datum_responsibilities,
    max_min_weights,
    population_utilities,
    responsibilities,
    update_log_prior,
    worst_population,
)
from gempi_jax.losses.preference import conservative_dpo_loss, dpo_loss, implicit_reward, ipo_loss, robust_dpo_loss
from gempi_jax.losses.residual import (
    bellman_residuals,
    boltzmann_log_policy,
    residual_temperature,
    virel_actor_loss,
    virel_critic_loss,
    virel_sampled_actor_loss,
)
from gempi_jax.losses.reward import bradley_terry, reward_model_loss
from gempi_jax.losses.surrogate import clip_fraction, clipped_surrogate, sequence_ratio
from gempi_jax.losses.value import value_loss

__all__ = [
    "MarginMoments",
    "batch_beta",
    "bellman_residuals",
    "beta_dpo_loss",
    "boltzmann_log_policy",
    "bradley_terry",
    "clip_fraction",
    "clipped_surrogate",
    "conservative_dpo_loss",
    "datum_responsibilities",
    "dpo_loss",
    "expected_values",
    "implicit_reward",
    "ipo_loss",
    "joint_log_probs",
    "margin_moments",
    "max_min_weights",
    "population_utilities",
    "residual_temperature",
    "responsibilities",
    "reward_model_loss",
    "robust_dpo_loss",
    "sequence_ratio",
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
