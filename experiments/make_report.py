"""Writes the report of a run, or a comparison of several.

    python -m experiments.make_report runs/arithmetic
    python -m experiments.make_report runs/vmpo-* runs/dar-* --output=runs

One workdir gets its ``report.html``; several get one each, and ``comparison.html`` in ``--output``.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from gempi_jax.report.comparison import group_table, run_table, write_comparison
from gempi_jax.report.html import write_report
from gempi_jax.report.records import read_run
from gempi_jax.report.tables import phase_table, to_markdown


def folder(text: str) -> pathlib.Path:
    """A path of the command line; shells expand no tilde behind an equals sign."""
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text}: nobody's home folder; give a full path") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the pages and prints their tables and paths; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.make_report", description=__doc__.splitlines()[0])
    parser.add_argument("workdirs", nargs="+", type=folder, metavar="WORKDIR", help="folder of a run")
    parser.add_argument("--output", type=folder, default=pathlib.Path(), help="page or folder of the comparison")
    options = parser.parse_args(arguments)
    try:
        runs = [read_run(workdir) for workdir in options.workdirs]
        pages = [write_report(workdir) for workdir in options.workdirs]
        if len(runs) > 1:
            print(to_markdown(group_table(runs)), to_markdown(run_table(runs)), sep="\n\n", end="\n\n")
            pages.append(write_comparison(options.workdirs, options.output))
        else:
            print(to_markdown(phase_table(runs[0])), end="\n\n")
    except OSError as error:
        print(f"make_report: {error}", file=sys.stderr)
        return 1
    print(*pages, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
