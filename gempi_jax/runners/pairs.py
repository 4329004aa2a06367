"""Pairs of a chosen and a rejected answer against the methods that learn from them, before any compute."""

from gempi_jax.methods.base import Method
from gempi_jax.runners.settings import PhaseSettings
from gempi_jax.runners.sources import SOURCES


def check_pairs(name: str, phase: PhaseSettings, method: Method, count: str) -> None:
    """Preferences are for methods that compare, and these need something to compare.

    Args:
      name: of the phase's section, for errors.
      phase: its settings.
      method: made of them.
      count: how many completions of a prompt there are, for errors.

    Raises:
      ValueError: with the place in the config and the fix.
    """
    if phase.source == "preferences" and not method.needs.preferences:
        raise ValueError(
            f"config.{name}.source = 'preferences': method {phase.method!r} weighs completions by rewards, and a pair "
            "only says which is better; set method to 'dpo' or another that compares, or source to 'scored'"
        )
    if phase.samples_per_prompt == 1 and method.needs.preferences:
        written = SOURCES[phase.source].written
        fix = "num_generations to at least 2, or source to" if written else "source to 'rollout', or to"
        raise ValueError(
            f"config.{name}.method = {phase.method!r} learns from pairs: {count}; set {fix} 'preferences', which are "
            "rows with 'chosen' and 'rejected'"
        )
