"""Benchmarks by name: ``python -m experiments.benchmark estep --help``."""

import importlib
import pathlib
import sys

from gempi_jax.runners.heap import keep_freed_memory


def main(arguments: list[str]) -> None:
    """Runs ``experiments.benchmarks.<name>`` with the remaining arguments."""
    folder = pathlib.Path(__file__).parent / "benchmarks"
    names = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    if not arguments or arguments[0] not in names:
        given = repr(arguments[0]) if arguments else "nothing"
        sys.exit(f"benchmark: {given} is not one of {', '.join(names)}. Usage: python -m experiments.benchmark NAME")
    # As in experiments.train; both sides of every comparison have it.
    keep_freed_memory()
    importlib.import_module(f"experiments.benchmarks.{arguments[0]}").main(arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
