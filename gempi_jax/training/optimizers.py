"""Optimisers as data: small frozen dataclasses, each checked when it is built, and ``build`` to make the optax chain.

Parameters and duals take the same ones. Duals are projected after ``optax.apply_updates``
(:func:`gempi_jax.em.project_duals`), not inside the chain: an update of -1 + 1e-8 is -1 in float32.
"""

import dataclasses
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from gempi_jax.training.schedules import Schedule, check_number
from gempi_jax.types import Array

NOT_DECAYED = r"(^|/)(bias|scale|[^/]*norm)(/|$)"
"""Paths of parameters without weight decay: biases, and everything in a norm."""


@dataclasses.dataclass(frozen=True)
class Adam:
    """Adam.

    Attributes:
      learning_rate: over the phase.
      b1, b2: decay of the first and second moment, in [0, 1).
      eps: added to the root of the second moment.
      max_grad_norm: the gradient's global norm is clipped to this; ``None`` for no clipping.
    """

    learning_rate: Schedule
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    max_grad_norm: float | None = None

    def __post_init__(self):
        check_number("b1", self.b1, 0 <= self.b1 < 1, "a number in [0, 1)")
        check_number("b2", self.b2, 0 <= self.b2 < 1, "a number in [0, 1)")
        check_number("eps", self.eps, self.eps > 0, "a positive number")
        _check_max_grad_norm(self.max_grad_norm)

    def _transform(self) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.b1, self.b2, self.eps)


@dataclasses.dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay on everything but biases and norms.

    Attributes:
      weight_decay: times the learning rate, per step.
    """

    weight_decay: float = 0.01

    def __post_init__(self):
        super().__post_init__()
        check_number("weight_decay", self.weight_decay, self.weight_decay >= 0, "a number of at least 0")

    def _transform(self) -> optax.GradientTransformation:
        return optax.chain(super()._transform(), optax.add_decayed_weights(self.weight_decay, decayed))


@dataclasses.dataclass(frozen=True)
class SGD:
    """Gradient descent, with momentum when it is positive.

    Attributes:
      learning_rate: over the phase.
      momentum: in [0, 1).
      max_grad_norm: the gradient's global norm is clipped to this; ``None`` for no clipping.
    """

    learning_rate: Schedule
    momentum: float = 0.0
    max_grad_norm: float | None = None

    def __post_init__(self):
        check_number("momentum", self.momentum, 0 <= self.momentum < 1, "a number in [0, 1)")
        _check_max_grad_norm(self.max_grad_norm)

    def _transform(self) -> optax.GradientTransformation:
        return optax.trace(self.momentum) if self.momentum else optax.identity()


@dataclasses.dataclass(frozen=True)
class Adafactor:
    """Adafactor at a given learning rate, without its adaptive one and without parameter scaling (as DAR uses it).

    Attributes:
      learning_rate: over the phase.
      clip: the update's root mean square is clipped to this.
      factored_from: matrices whose two largest dimensions reach this keep one second moment per row and per column.
      max_grad_norm: the gradient's global norm is clipped to this; ``None`` for no clipping.
    """

    learning_rate: Schedule
    clip: float = 1.0
    factored_from: int = 128
    max_grad_norm: float | None = None

    def __post_init__(self):
        check_number("clip", self.clip, self.clip > 0, "a positive number")
        check_number("factored_from", self.factored_from, self.factored_from >= 2, "at least 2")
        _check_max_grad_norm(self.max_grad_norm)

    def _transform(self) -> optax.GradientTransformation:
        second_moments = optax.scale_by_factored_rms(min_dim_size_to_factor=self.factored_from)
        return optax.chain(second_moments, optax.clip_by_block_rms(self.clip))


@dataclasses.dataclass(frozen=True)
class ExponentiatedGradient:
    """x <- x exp(-rate clip(g, -c, c)): mirror descent on x > 0, for duals, with g the gradient in x.

    A dual's gradient is relative to its budget, g = 1 - D / eps, so that a step knows neither the unit of the rewards
    nor that of the price: at a rate of 0.3 a price falls by at most a quarter where the budget is unused, and less than
    doubles where it is overrun.  The idea is Ziegler et al.'s adaptive KL controller (arXiv:1909.08593, section 2.2),
    with exp(x) for 1 + x, which stays positive.

    Attributes:
      learning_rate: over the phase.
      clip: c, the largest share of the budget by which an overrun counts.
      maximum: of x: where steps are too large for any price to hold a budget, a price that went on rising would drown
        the likelihood, and take as long to come back.
    """

    learning_rate: Schedule
    clip: float = 2.0
    maximum: float = 1e3

    def __post_init__(self):
        check_number("clip", self.clip, self.clip > 0, "a positive number")


Optimizer = Adam | AdamW | SGD | Adafactor


def build(optimizer: Optimizer | ExponentiatedGradient, total_steps: int) -> optax.GradientTransformation:
    """Clipping, then the optimiser, then its learning rate.

    Args:
      optimizer: which, with its settings.
      total_steps: updates in the phase.
    """
    if isinstance(optimizer, ExponentiatedGradient):
        rate = optax.scale_by_learning_rate(optimizer.learning_rate.build(total_steps))
        return optax.chain(optax.clip(optimizer.clip), rate, _of_logarithms(optimizer.maximum))
    clip = optax.identity() if optimizer.max_grad_norm is None else optax.clip_by_global_norm(optimizer.max_grad_norm)
    rate = optax.scale_by_learning_rate(optimizer.learning_rate.build(total_steps))
    return optax.chain(clip, optimizer._transform(), rate)


def _of_logarithms(maximum: float) -> optax.GradientTransformation:
    """Updates u of log x as updates of x: min(x exp(u), maximum) - x."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda u, x: jnp.minimum(x * jnp.expm1(u), jnp.maximum(maximum - x, 0.0)), updates, params
        )
    )


def learning_rate(optimizer: Optimizer, total_steps: int) -> Callable[[Array | int], Array]:
    """The rate that update number s (from 0) of the phase takes, for the log."""
    schedule = optimizer.learning_rate.build(total_steps)
    return lambda step: jnp.asarray(schedule(step), jnp.float32)


def decayed(params: PyTree) -> PyTree:
    """True for parameters with weight decay: all but biases and what belongs to a norm."""

    def mask(path, _):
        return re.search(NOT_DECAYED, jax.tree_util.keystr(path, simple=True, separator="/")) is None

    return jax.tree_util.tree_map_with_path(mask, params)


def _check_max_grad_norm(value: float | None) -> None:
    if value is not None:
        check_number("max_grad_norm", value, value > 0, "a positive number, or None for no clipping")
