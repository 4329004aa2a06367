"""Reward functions: how they are found (`loading`) and called (`engine`), and those that come with the package."""

from gempi_jax.llm.rewards.answers import exact_match, final_number, format_reward
from gempi_jax.llm.rewards.classifier import sequence_classifier
from gempi_jax.llm.rewards.engine import RewardResult, compute_rewards
from gempi_jax.llm.rewards.loading import Preflight, load_reward, preflight
from gempi_jax.llm.rewards.signature import check_columns
from gempi_jax.llm.rewards.specs import RewardError, RewardSpec
from gempi_jax.llm.rewards.stories import finished, happy_ending, no_repetition, story_reward, story_specs

__all__ = [
    "Preflight",
    "RewardError",
    "RewardResult",
    "RewardSpec",
    "check_columns",
    "compute_rewards",
    "exact_match",
    "final_number",
    "finished",
    "format_reward",
    "happy_ending",
    "load_reward",
    "no_repetition",
    "preflight",
    "sequence_classifier",
    "story_reward",
    "story_specs",
]
