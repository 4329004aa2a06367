"""Conditions that a setting must meet, as errors that say which setting, its value and what it means."""

import math


def require(condition: bool, message: str) -> None:
    """Raises ``ValueError`` with the message where the condition does not hold."""
    if not condition:
        raise ValueError(message)


def positive(value: float, name: str, meaning: str) -> None:
    """Raises ``ValueError`` unless the value is positive and finite."""
    require(math.isfinite(value) and value > 0, f"{name} is {value}: {meaning} must be positive and finite.")
