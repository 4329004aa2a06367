"""Settings that are right each by itself and wrong together: an error for each, before any compute."""

import math
from collections.abc import Mapping

from gempi_jax.runners.settings import PhaseSettings, RunSettings


def check_plan(
    settings: RunSettings,
    *,
    longest: int,
    prompt_widths: dict[str, int],
    heldout_width: int,
    mesh: Mapping[str, int],
) -> None:
    """Checks a run's phases against its model and its mesh.

    Args:
      settings: of the run.
      longest: positions of the model.
      prompt_widths: tokens of the longest prompt, by phase.
      heldout_width: tokens of the longest prompt that judges them.
      mesh: devices along each axis.

    Raises:
      ValueError: with the place in the config, the value and the fix.
    """
    for name, phase in settings.phases.items():
        _check_lengths(name, phase, longest, prompt_widths[name], "prompts")
        # Held-out completions are as long as the longest of any phase.
        _check_lengths(name, phase, longest, heldout_width, "held-out prompts")
        _check_devices(name, phase, mesh)
        if phase.prefill_chunk and settings.model.loader == "flax":
            raise ValueError(
                f"config.{name}.prefill_chunk = {phase.prefill_chunk}: transformers' Flax classes read prompts at "
                "once; set it to 0, or use config.model.loader = 'decoder'"
            )


def _check_lengths(name: str, phase: PhaseSettings, longest: int, prompt_width: int, prompts: str) -> None:
    completion = phase.max_completion_length
    if prompt_width + completion > longest:
        raise ValueError(
            f"config.{name}.max_completion_length = {completion}: with {prompts} of up to {prompt_width} tokens that "
            f"is more than the model's {longest} positions; lower it, or data.max_prompt_length"
        )


def _check_devices(name: str, phase: PhaseSettings, mesh: Mapping[str, int]) -> None:
    parts = mesh["data"] * mesh["fsdp"]
    if phase.batch_prompts % parts:
        raise ValueError(
            f"config.{name}.batch_prompts = {phase.batch_prompts}: must be a multiple of the {parts} devices along "
            "config.mesh.data and config.mesh.fsdp"
        )
    if phase.shrink and math.prod(mesh.values()) > 1:
        raise ValueError(
            f"config.{name}.shrink = {phase.shrink!r}: is for one device, since sequences would be exchanged between "
            "several; leave it empty, or set all axes of config.mesh to 1"
        )
