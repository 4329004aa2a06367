"""What a run is, as typed values: every field of a config is a field here, with its unit.

``runners.build`` turns a config into these and checks types and names on the way; nothing below it sees a config.
"""

from gempi_jax.runners.settings.control import (
    ActionValueSettings,
    ControlSettings,
    CriticSettings,
    EnvironmentSettings,
    NetworkSettings,
    PlaySettings,
    ReplaySettings,
)
from gempi_jax.runners.settings.data import DataSettings
from gempi_jax.runners.settings.model import LoRASettings, ModelSettings
from gempi_jax.runners.settings.optimizer import DualSettings, OptimizerSettings
from gempi_jax.runners.settings.phase import AdvantageSettings, PhaseSettings, SamplingSettings, UpdateSettings
from gempi_jax.runners.settings.run import CheckpointSettings, EvalSettings, MeshSettings, RunSettings

__all__ = [
    "ActionValueSettings",
    "AdvantageSettings",
    "CheckpointSettings",
    "ControlSettings",
    "CriticSettings",
    "DataSettings",
    "DualSettings",
    "EnvironmentSettings",
    "EvalSettings",
    "LoRASettings",
    "MeshSettings",
    "ModelSettings",
    "NetworkSettings",
    "OptimizerSettings",
    "PhaseSettings",
    "PlaySettings",
    "ReplaySettings",
    "RunSettings",
    "SamplingSettings",
    "UpdateSettings",
]
