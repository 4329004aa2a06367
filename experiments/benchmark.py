"""Benchmarks by name: ``python -m experiments.benchmark rl --help``.

Those that compare with other libraries run each side in a process of its own; ``make peers`` installs the others.
"""

import ast
import importlib
import pathlib
import sys

from gempi_jax.runners.heap import keep_freed_memory


def main(arguments: list[str]) -> None:
    """Runs ``experiments.benchmarks.<name>`` with the remaining arguments."""
    folder = pathlib.Path(__file__).parent / "benchmarks"
    paths = {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"}
    if arguments and arguments[0] in {"-h", "--help"}:
        print(__doc__)
        for name, path in paths.items():
            # Read, not imported: help comes at once.
            first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
            print(f"  {name:14s} {first}")
        return
    if not arguments or arguments[0] not in paths:
        given = repr(arguments[0]) if arguments else "nothing"
        sys.exit(f"benchmark: {given} is not one of {', '.join(paths)}. Usage: python -m experiments.benchmark NAME")
    # As in experiments.train; both sides of every comparison have it.
    keep_freed_memory()
    importlib.import_module(f"experiments.benchmarks.{arguments[0]}").main(arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
