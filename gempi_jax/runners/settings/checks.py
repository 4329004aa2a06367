"""The one form of an error about a single setting."""


def require(condition: bool, place: str, value, fix: str) -> None:
    """Raises ValueError, with the setting, its value and the fix, where a condition does not hold."""
    if not condition:
        raise ValueError(f"{place} = {value!r}: {fix}")


def at_least_one(settings: object, *names: str) -> None:
    """Raises ValueError where a count is below 1."""
    for name in names:
        require(getattr(settings, name) > 0, name, getattr(settings, name), "must be at least 1")
