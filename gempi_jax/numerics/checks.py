"""Conditions that a setting or an argument must meet, as errors that say which one, its value and what it means."""

import math
from collections.abc import Callable

import jax
import numpy as np

from gempi_jax.types import Array

LARGEST = 1e15
"""Numbers beyond it count as infinite: float32 holds the squares of a million that are smaller."""


def require(condition: bool, message: str) -> None:
    """Raises ``ValueError`` with the message where the condition does not hold."""
    if not condition:
        raise ValueError(message)


def positive(value: float, name: str, meaning: str) -> None:
    """Raises ``ValueError`` unless the value is positive and finite, in float32 too."""
    require(math.isfinite(value) and value > 0, f"{name} is {value}: {meaning} must be positive and finite.")
    require(1 / LARGEST <= value <= LARGEST, f"{name} is {value}: {meaning} must lie in [{1 / LARGEST}, {LARGEST}].")


def known_values(place: str, vector: Array | float, meaning: str, valid: Callable[[np.ndarray], bool]) -> None:
    """Raises ``ValueError`` where numbers that are known before a function is traced mean nothing."""
    if isinstance(vector, jax.core.Tracer):
        return
    values = np.asarray(vector)
    require(bool(valid(values)), f"{place}: {meaning}, not {values.tolist()}.")


def same_shape(place: str, **arrays: Array | None) -> None:
    """Raises ``ValueError`` unless all arrays that are given have the shape of the first."""
    (first, like), *others = arrays.items()
    for name, array in others:
        shape = getattr(array, "shape", None)
        require(
            array is None or shape == like.shape,
            f"{place}: {name} has shape {shape}, {first} {like.shape}; give one entry for each.",
        )
