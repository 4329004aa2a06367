"""A policy at a temperature: softmax(logits / T) as a model of its own."""

import dataclasses
from typing import Any

from gempi_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Tempered:
    """A model whose logits are divided by T: what it samples, scores and fits is one distribution, whatever T is.

    With the temperature in the sampler alone, pi_t differs from what sampled, and importance weights against it
    collapse as completions grow longer.

    Attributes:
      model: a :class:`gempi_jax.models.Decoder`, or what has its passes.
      temperature: T > 0.
    """

    model: Any
    temperature: float

    def apply(self, variables: dict[str, Params], *args: Any, method: str | None = None, **options: Any) -> Any:
        """As the model's; the passes that end in logits end in logits / T."""
        output = self.model.apply(variables, *args, method=method, **options)
        return output / self.temperature if method in (None, "logits") else output

    def on(self, frozen: Params) -> "Tempered":
        """The model with the parameters that nothing trains in place, at the same temperature."""
        return dataclasses.replace(self, model=self.model.on(frozen))

    @property
    def config(self) -> Any:
        """Of the model."""
        return self.model.config

    @property
    def dtype(self) -> Any:
        """Of the model's activations."""
        return self.model.dtype


def tempered(model: Any, temperature: float) -> Any:
    """The model at a temperature; itself at 1.

    Args:
      model: a :class:`gempi_jax.models.Decoder`, or what has its passes.
      temperature: T > 0.
    """
    return model if temperature == 1 else Tempered(model, temperature)
