"""How parameters and duals step."""

import dataclasses

from gempi_jax.runners.settings.checks import require


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """The parameters' optimiser.

    Attributes:
      name: adamw, adam, sgd (``b1`` is its momentum) or adafactor.
      learning_rate: the peak.
      schedule: constant, linear or cosine after the warm-up, down to ``final_fraction`` of the peak.
      warmup_steps: optimiser steps.
      weight_decay: of adamw, times the learning rate.
      b1, b2: decay of the moments.
      max_grad_norm: the gradient is clipped to this global norm; 0 does not clip.
    """

    name: str = "adamw"
    learning_rate: float = 1e-4
    schedule: str = "constant"
    warmup_steps: int = 0
    final_fraction: float = 0.0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    max_grad_norm: float = 1.0

    def __post_init__(self):
        require(
            self.weight_decay == 0 or self.name == "adamw",
            "weight_decay",
            self.weight_decay,
            f"adamw alone decays weights, and name is {self.name!r}; set it to 0, or name to 'adamw'",
        )


@dataclasses.dataclass(frozen=True)
class DualSettings:
    """Optimisers of the duals, which step on 1 - D / eps, the gradient relative to the budget.

    Attributes:
      optimizer: exponentiated (steps on the logarithm, which know no unit), adam or sgd.
      num_temperature_steps: of a dual-adaptive temperature, per E-step.
      temperature_learning_rate, multiplier_learning_rate: their rates.
    """

    optimizer: str = "exponentiated"
    num_temperature_steps: int = 1
    temperature_learning_rate: float = 0.1
    multiplier_learning_rate: float = 0.3

    def __post_init__(self):
        steps = self.num_temperature_steps
        require(steps >= 0, "num_temperature_steps", steps, "must be at least 1, or 0 to keep the temperature")
