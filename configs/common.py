"""What every config shares: one ``arg`` string, read strictly, and sections with every setting at its default.

Defaults stand in ``gempi_jax.runners.settings`` and in the signatures of ``gempi_jax.methods``, with what each setting
means; a config states what differs, with its reason.
"""

import dataclasses
import warnings
from typing import Any

from ml_collections import ConfigDict

from gempi_jax.methods import METHODS
from gempi_jax.runners.controlbuild import OF_THE_CRITIC
from gempi_jax.runners.controlnetworks import CONTROL_METHODS
from gempi_jax.runners.options import default_arguments
from gempi_jax.runners.settings import (
    ControlSettings,
    DataSettings,
    EnvironmentSettings,
    ModelSettings,
    PhaseSettings,
    RunSettings,
)

RENAMED = {"num_updates": "updates_per_epoch"}
"""Settings of a phase by the names that they had."""


def parse_arg(arg: str | None, *, method: str, table: dict[str, Any] = METHODS) -> tuple[str, bool]:
    """Reads ``"METHOD"``, ``"METHOD,quick"`` or ``"quick"``.

    Returns:
      The method's name, and whether the run is to take seconds.

    Raises:
      ValueError: for anything else, with what is valid.
    """
    parts = [part.strip() for part in (arg or "").split(",") if part.strip()]
    quick = "quick" in parts
    names = [part for part in parts if part != "quick"]
    unknown = [name for name in names if name not in table]
    if unknown or len(names) > 1:
        raise ValueError(
            f"config arg {arg!r}: expected one method of {', '.join(table)}, and optionally 'quick', "
            "e.g. arithmetic.py:vmpo,quick"
        )
    return (names[0] if names else method), quick


def parse_control(arg: str | None) -> tuple[str, bool]:
    """:func:`parse_arg` of a run in environments, V-MPO where no method is named."""
    return parse_arg(arg, method="vmpo", table=CONTROL_METHODS)


def base() -> ConfigDict:
    """A run with every setting at its default; a config changes what it means to change."""
    settings = RunSettings(ModelSettings(), DataSettings(), rewards={}, phases={})
    values = dataclasses.asdict(settings)
    values["data"]["columns"] = ConfigDict()
    # Names of the sections that are run, in order.
    return ConfigDict({**values, "rewards": ConfigDict(), "phases": ()})


def phase(method: str, **changes) -> ConfigDict:
    """A phase with every setting at its default but ``changes``; a dictionary changes a section in part."""
    for old in RENAMED.keys() & changes.keys():
        warnings.warn(f"{old} is {RENAMED[old]} now", FutureWarning, stacklevel=2)
        changes[RENAMED[old]] = changes.pop(old)
    config = ConfigDict(dataclasses.asdict(PhaseSettings()))
    config.method = method
    config.method_args = ConfigDict(default_arguments(METHODS[method]))
    config.update(changes)
    return config


def control(
    name: str, method: str, quick: bool, *, arguments: dict[str, dict[str, Any]] | None = None, **changes
) -> ConfigDict:
    """A run in environments with every setting at its default but ``changes``; dictionaries change sections in part.

    Args:
      name: of the environment.
      method: any of the table that serves control.
      quick: whether the run is to take seconds.
      arguments: of methods, by the method's name.
      changes: what differs, by setting.
    """
    config = ConfigDict(dataclasses.asdict(ControlSettings(EnvironmentSettings(name))))
    config.method = method
    defaults = {k: v for k, v in default_arguments(CONTROL_METHODS[method]).items() if k not in OF_THE_CRITIC}
    own = CONTROL_ARGUMENTS.get(method, {}) | (arguments or {}).get(method, {})
    config.method_args = ConfigDict(defaults | own)
    config.entropy_coefficient = CONTROL_ENTROPY.get(method, 0.0)
    if method in OTHER_CRITICS:
        of_v = changes.pop("critic", {})
        changes["critic"] = {name: of_v[name] for name in OTHER_CRITICS[method] if name in of_v}
    if method == "virel":
        changes.pop("entropy_coefficient", None)
    config.update(changes)
    config.environment.options = ConfigDict(changes.get("environment", {}).get("options", {}))
    if quick:
        steps = config.num_environments * config.unroll_length
        config.update({"env_steps": 4 * steps, "log_every": 2, "num_seeds": 1})
        config.checkpoint.every, config.eval.episodes = 2, 2
    return config


CONTROL_ARGUMENTS = {
    # The paper's budgets for control and its better half.  A step is shortened to its budget and never lengthened:
    # once a task is solved advantages are noise, and a step that is lengthened walks away with it.
    "vmpo": {"epsilon_eta": 0.1, "epsilon_alpha": 0.005, "top_k_fraction": 0.5, "enforced": "line_search_1"},
    "mpo": {"enforced": "line_search_1"},
    # Without a KL in the rewards: there is no policy that training started from.
    "ppo": {"beta": 0.0},
}
"""What steps in an environment want other than sentences do, by method."""

OTHER_CRITICS = {"mpo": ("gamma",), "virel": ("gamma", "features")}
"""Methods whose critic is Q, and what they read of the settings of V."""

CONTROL_ENTROPY = {"ppo": 0.01}
"""Bonus on the policy's entropy, by method."""
