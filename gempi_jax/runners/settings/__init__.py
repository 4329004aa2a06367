"""What a run of a language model is, as typed values: every field of a config is a field here, with its unit.

``runners.build`` turns a config into these and checks types and names on the way; nothing below it sees a config.
"""

from gempi_jax.runners.settings.data import DataSettings
from gempi_jax.runners.settings.model import LoRASettings, ModelSettings
from gempi_jax.runners.settings.optimizer import DualSettings, OptimizerSettings
from gempi_jax.runners.settings.phase import AdvantageSettings, PhaseSettings, SamplingSettings, UpdateSettings
from gempi_jax.runners.settings.run import CheckpointSettings, EvalSettings, MeshSettings, RunSettings

__all__ = [
    "AdvantageSettings",
    "CheckpointSettings",
    "DataSettings",
    "DualSettings",
    "EvalSettings",
    "LoRASettings",
    "MeshSettings",
    "ModelSettings",
    "OptimizerSettings",
    "PhaseSettings",
    "RunSettings",
    "SamplingSettings",
    "UpdateSettings",
]
