"""Optimisers by name: the last place where an optimiser's or a schedule's name is a string."""

from collections.abc import Callable

import optax

from gempi_jax.runners.build import blame, lookup
from gempi_jax.runners.settings import ControlSettings, DualSettings, OptimizerSettings, PhaseSettings
from gempi_jax.training import optimizers, schedules
from gempi_jax.training.step import Optimizers

DECAYS = {
    "constant": lambda final: schedules.Constant(),
    "linear": schedules.Linear,
    "cosine": schedules.Cosine,
}
OPTIMIZERS = {
    "adam": lambda s, **common: optimizers.Adam(b1=s.b1, b2=s.b2, **common),
    "adamw": lambda s, **common: optimizers.AdamW(b1=s.b1, b2=s.b2, weight_decay=s.weight_decay, **common),
    "sgd": lambda s, **common: optimizers.SGD(momentum=s.b1, **common),
    "adafactor": lambda s, **common: optimizers.Adafactor(**common),
}
DUAL_OPTIMIZERS = {
    "exponentiated": optimizers.ExponentiatedGradient,
    "adam": optimizers.Adam,
    "sgd": optimizers.SGD,
}


def build_optimizers(phase: PhaseSettings, name: str, *, critic: bool = False) -> tuple[Optimizers, Callable]:
    """The optimisers of a phase, and the learning rate by update for the log.

    Args:
      phase: settings.
      name: of the phase's section, for errors.
      critic: whether a value head trains.

    Raises:
      ValueError: an unknown name or a value out of range, with its place.
    """
    total = phase.num_iterations * phase.num_epochs * phase.updates_per_epoch
    place = f"config.{name}.optimizer"
    with blame(f"config.{name}.value_learning_rate"):
        value = optimizers.Adam(schedules.Schedule(phase.value_learning_rate))
    with blame(place):
        policy = _optimizer(phase.optimizer, place)
        params = optax.partition(
            {
                "policy": optimizers.build(policy, total),
                "value": optimizers.build(value, total) if critic else optax.set_to_zero(),
            },
            lambda tree: {key: key for key in tree},
        )
        rate = optimizers.learning_rate(policy, total)
    return Optimizers(params, _duals(phase.duals, total, f"config.{name}.duals")), rate


def control_optimizers(settings: ControlSettings) -> tuple[Optimizers, Callable]:
    """The optimisers of a run in environments, one for policy and critic, and the learning rate by update for the log.

    Raises:
      ValueError: as :func:`build_optimizers`.
    """
    total = settings.num_iterations * settings.num_epochs * settings.updates_per_epoch
    with blame("config.optimizer"):
        optimizer = _optimizer(settings.optimizer, "config.optimizer")
        params, rate = optimizers.build(optimizer, total), optimizers.learning_rate(optimizer, total)
        if settings.method == "virel":
            # Actor and critic are clipped apart: the loss of one is E[Q] times as large as that of the other.
            params = optax.partition({"policy": params, "value": params}, lambda tree: {name: name for name in tree})
    return Optimizers(params, _duals(settings.duals, total, "config.duals")), rate


def action_value_optimizer(settings: ControlSettings) -> optax.GradientTransformation:
    """Of Q: Adam at a constant rate, clipped as the policy's.

    Raises:
      ValueError: a value out of range, with its place.
    """
    with blame("config.action_values.learning_rate"):
        rate = schedules.Schedule(settings.action_values.learning_rate)
        return optimizers.build(optimizers.Adam(rate, max_grad_norm=settings.optimizer.max_grad_norm or None), 1)


def _optimizer(settings: OptimizerSettings, place: str) -> optimizers.Optimizer:
    decay = lookup(DECAYS, settings.schedule, f"{place}.schedule")(settings.final_fraction)
    schedule = schedules.Schedule(settings.learning_rate, settings.warmup_steps, decay)
    make = lookup(OPTIMIZERS, settings.name, f"{place}.name")
    return make(settings, learning_rate=schedule, max_grad_norm=settings.max_grad_norm or None)


def _duals(settings: DualSettings, total: int, place: str) -> dict[str, optax.GradientTransformation]:
    make = lookup(DUAL_OPTIMIZERS, settings.optimizer, f"{place}.optimizer")

    def build(name: str, rate: float) -> optax.GradientTransformation:
        with blame(f"{place}.{name}"):
            return optimizers.build(make(schedules.Schedule(rate)), total)

    return {
        "temperature": build("temperature_learning_rate", settings.temperature_learning_rate),
        "multiplier": build("multiplier_learning_rate", settings.multiplier_learning_rate),
    }
