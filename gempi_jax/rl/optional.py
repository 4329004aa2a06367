"""What environments of others are made with: packages that may be missing, options that they may not have."""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any


def module(name: str, extra: str) -> ModuleType:
    """A module of an optional package.

    Raises:
      ImportError: says which extra brings it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"this environment needs {name}, which cannot be imported ({error}): pip install 'gempi_jax[{extra}]'"
        ) from error


def check_options(name: str, options: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raises ValueError for an option that an environment has not; it names those that it has."""
    known = sorted(known)
    for option in options:
        if option not in known:
            raise ValueError(f"{name}: there is no option {option!r}; there are {', '.join(known) or 'none'}.")


def nearest(name: str, known: Iterable[str], number: int = 3) -> str:
    """`; the nearest are ...`, for errors; nothing where nothing is known."""
    lower = {each.lower(): each for each in known}
    found = [lower[each] for each in difflib.get_close_matches(name.lower(), list(lower), n=number, cutoff=0.3)]
    found = found or sorted(known)[:number]
    if not found:
        return ""
    return f"; the nearest {'is' if len(found) == 1 else 'are'} {', '.join(map(repr, found))}"
