"""Where other libraries are installed: an environment for each, which ``make peers`` makes."""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

ENVIRONMENTS = {"tunix": ".venv-tunix", "trl": ".venv-trl", "pytorch": ".venv-trl"}
"""Folders by side, beside the code or in ``GEMPI_PEERS``; a side that is not here runs in this environment."""


def interpreter(side: str) -> pathlib.Path | None:
    """The Python that has a side's library; ``None`` where it is not installed."""
    if side not in ENVIRONMENTS:
        return pathlib.Path(sys.executable)
    path = pathlib.Path(os.environ.get("GEMPI_PEERS", ROOT)) / ENVIRONMENTS[side] / "bin" / "python"
    return path if path.is_file() else None


def present(sides: list[str]) -> list[str]:
    """Those that can run; what is absent is said by name."""
    there = [side for side in sides if interpreter(side.partition(":")[0]) is not None]
    for side in sides:
        if side not in there:
            print(f"{side}: skipped, not installed; `make peers` makes its environment", flush=True)
    return there
