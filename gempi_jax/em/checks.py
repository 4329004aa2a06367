"""Conditions that a setting must meet, as errors that say which setting, its value and what it means."""

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


def samples_agree(
    place: str, advantages: Array, per_anchor: Array, vector: Array | None = None, where: Array | None = None
) -> None:
    """Raises ``ValueError`` unless per-anchor arrays are [m, *E], a vector over anchors [m] and a mask [*E]."""
    shape = advantages.shape
    require(
        per_anchor.ndim == advantages.ndim + 1 and per_anchor.shape[1:] == shape,
        f"{place}: arrays over anchors have shape {per_anchor.shape}, advantages {shape}; give [m, *advantages.shape].",
    )
    require(
        vector is None or vector.shape == per_anchor.shape[:1],
        f"{place}: {per_anchor.shape[0]} anchors need one number each, not shape {getattr(vector, 'shape', None)}.",
    )
    require(
        where is None or where.shape == shape,
        f"{place}: the mask has shape {getattr(where, 'shape', None)}, advantages {shape}; give one flag for each.",
    )


def known_values(place: str, vector: Array, meaning: str, valid: Callable[[np.ndarray], bool]) -> None:
    """Raises ``ValueError`` where numbers that are known before a function is traced mean nothing."""
    if isinstance(vector, jax.core.Tracer):
        return
    values = np.asarray(vector)
    require(bool(valid(values)), f"{place}: {meaning}, not {values.tolist()}.")
