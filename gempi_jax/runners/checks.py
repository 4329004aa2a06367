"""Settings that are right each by itself and wrong together: an error for each, before any compute."""

import inspect
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from gempi_jax.em import Level
from gempi_jax.methods import METHODS
from gempi_jax.methods.base import Method
from gempi_jax.runners.pairs import check_pairs
from gempi_jax.runners.settings import PhaseSettings, RunSettings
from gempi_jax.runners.sources import SOURCES


def check_phase(name: str, phase: PhaseSettings, method: Method) -> None:
    """Checks a phase's settings against its method.

    Args:
      name: of its section, for errors.
      phase: its settings.
      method: made of them.

    Raises:
      ValueError: with the place in the config, the value and the fix.
    """
    _check_samples(name, phase, method)
    _check_effects(name, phase, method)


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


class _Effect(NamedTuple):
    """When a phase's setting does anything.

    Attributes:
      setting: its name in the phase's section.
      holds: settings and method -> whether it has an effect.
      why: the reason where it has none.
      harmless: values that say what is so in any case, beside the default.
    """

    setting: str
    holds: Callable[[PhaseSettings, Method], bool]
    why: str
    harmless: tuple[Any, ...] = ()


def _weighs_rewards(phase: PhaseSettings, method: Method) -> bool:
    return method.needs.rewards and SOURCES[phase.source].rewarded


def _takes_baseline(phase: PhaseSettings, method: Method) -> bool:
    own_critic = method.needs.critic is not None and phase.baseline != "value"
    return _weighs_rewards(phase, method) and method.needs.baseline and not own_critic


def _writes(phase: PhaseSettings, method: Method) -> bool:
    return SOURCES[phase.source].written


def _keeps_old(phase: PhaseSettings, method: Method) -> bool:
    return "old" in method.needs.snapshots or SOURCES[phase.source].written


def _has_critic(phase: PhaseSettings, method: Method) -> bool:
    return method.needs.critic is not None


def _pays_for_divergence(phase: PhaseSettings, method: Method) -> bool:
    return method.needs.trust_region is not None and not method.needs.trust_region.at_end


def _takes_ratios(phase: PhaseSettings, method: Method) -> bool:
    return method.needs.ratio


def _has_dual(kind: str) -> Callable[[PhaseSettings, Method], bool]:
    return lambda phase, method: any(name.startswith(kind) for name in jax.eval_shape(method.init))


_NO_BASELINE = "no reward is read here, or the method makes its own advantages of them"
_NO_ROLLOUT = "the completions are the dataset's own"
_NO_TEMPERATURE = "no temperature follows gradient steps; the method has it fixed, or solves for it"
EFFECTS = (
    _Effect("baseline", _takes_baseline, _NO_BASELINE, harmless=("zero",)),
    _Effect("normalize_advantages", _takes_baseline, _NO_BASELINE),
    _Effect("value_learning_rate", _has_critic, "there is no critic: baseline is not 'value'"),
    _Effect("num_generations", _writes, _NO_ROLLOUT, harmless=(1,)),
    _Effect("temperature", _writes, _NO_ROLLOUT),
    _Effect("tempered", lambda phase, _: phase.temperature != 1, "the temperature is 1"),
    _Effect("top_k", _writes, _NO_ROLLOUT),
    _Effect("top_p", _writes, _NO_ROLLOUT),
    _Effect("min_p", _writes, _NO_ROLLOUT),
    _Effect("shrink", _writes, _NO_ROLLOUT),
    _Effect("old_period", _keeps_old, "neither the method nor a rollout uses pi_t"),
    _Effect("old_ema_decay", _keeps_old, "neither the method nor a rollout uses pi_t"),
    _Effect("ratio_dropout", _takes_ratios, "the method takes no ratios"),
    _Effect("trust_region_dropout", _pays_for_divergence, "no update evaluates a trust region"),
    _Effect("duals.optimizer", _has_dual(""), "the method has no duals"),
    _Effect("duals.num_temperature_steps", _has_dual("temperature"), _NO_TEMPERATURE),
    _Effect("duals.temperature_learning_rate", _has_dual("temperature"), _NO_TEMPERATURE),
    _Effect("duals.multiplier_learning_rate", _has_dual("multiplier"), "no multiplier of the M-step follows gradients"),
)
"""Settings that only some methods or sources read: elsewhere any value but the default is refused by name."""


def _check_effects(name: str, phase: PhaseSettings, method: Method) -> None:
    defaults = PhaseSettings()
    for effect in EFFECTS:
        value, default = (operator.attrgetter(effect.setting)(settings) for settings in (phase, defaults))
        if value != default and value not in effect.harmless and not effect.holds(phase, method):
            raise ValueError(
                f"config.{name}.{effect.setting} = {value!r}: has no effect with method {phase.method!r} on source "
                f"{phase.source!r}, since {effect.why}; leave it at {default!r}"
            )


def _has_scope(phase: PhaseSettings) -> bool:
    return "scope" in inspect.signature(METHODS[phase.method]).parameters


def _compares(phase: PhaseSettings) -> str:
    """By which of its settings a phase compares the samples of a prompt with each other alone."""
    return "method_args.scope = 'group'" if _has_scope(phase) else f"method = {phase.method!r}"


def _fix(phase: PhaseSettings) -> str:
    return "method_args.scope to 'batch'" if _has_scope(phase) else "method to one that compares over the batch"


def _check_samples(name: str, phase: PhaseSettings, method: Method) -> None:
    """What a method compares must be there to be compared."""
    place, one = f"config.{name}", phase.samples_per_prompt == 1
    more = "num_generations to at least 2, or " if SOURCES[phase.source].written else ""
    count = "num_generations is 1" if more else f"source {phase.source!r} has one completion of each prompt"
    if method.needs.rewards and not SOURCES[phase.source].rewarded:
        raise ValueError(
            f"{place}.source = {phase.source!r}: method {phase.method!r} weighs completions by their rewards, and "
            "these have none; set source to 'scored' and give a column 'reward', or method to 'sft'"
        )
    check_pairs(name, phase, method, count)
    if one and phase.baseline == "group_mean" and _takes_baseline(phase, method):
        raise ValueError(
            f"{place}.baseline = 'group_mean': {count}, whose mean is its own reward, so that all advantages are 0; "
            f"set {more}baseline to 'batch_mean', 'value' or 'zero'"
        )
    if one and method.needs.by_group:
        raise ValueError(
            f"{place}.{_compares(phase)}: {count}, whose weight is the same whatever its reward; set "
            f"{more}{_fix(phase)}"
        )
    if phase.old_log_probs == "sampler" and (method.needs.critic is not None or method.needs.kl_price):
        why = "a critic reads the policy's states, of a pass over what it wrote"
        if method.needs.critic is None:
            why = "rounding between the sampler and pi_ref's pass would tell equal rewards, less their KL, apart"
        raise ValueError(f"{place}.old_log_probs = 'sampler': {why}; set it to 'scored'")
    if method.needs.level is Level.TOKEN and not SOURCES[phase.source].written:
        raise ValueError(
            f"{place}.source = {phase.source!r}: method {phase.method!r} weighs each token, and rows of a dataset have "
            "log-probabilities and rewards of whole completions; set source to 'rollout', or level to 'sequence'"
        )
    parts = phase.updates_per_epoch * phase.num_microbatches
    if method.needs.critic is not None and phase.batch_prompts % parts:
        raise ValueError(
            f"{place}.batch_prompts = {phase.batch_prompts}: a critic is fitted on all of them; give a multiple of "
            f"updates_per_epoch * num_microbatches = {parts}"
        )
    if phase.m_step_fraction < 1 and method.needs.every_unit:
        raise ValueError(
            f"{place}.m_step_fraction = {phase.m_step_fraction}: all prompts weigh the same, so that those left out "
            "would be no worse than the others; set it to 1, or lower batch_prompts"
        )
