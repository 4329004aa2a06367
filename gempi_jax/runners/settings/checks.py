"""The one form of an error about a single setting."""


def require(condition: bool, place: str, value, fix: str) -> None:
    """Raises ValueError, with the setting, its value and the fix, where a condition does not hold."""
    if not condition:
        raise ValueError(f"{place} = {value!r}: {fix}")
