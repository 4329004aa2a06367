"""What the subcommands that compare iterations share: arguments, jobs, the rounds over sizes, and what is written."""

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.speed import show
from experiments.speed.driver import Timing, alternate, free_core, scratch
from experiments.speed.folder import write_folder
from experiments.speed.peers import present
from experiments.speed.work import COMPARED, SIZES, Job, Size, Work

TURNS = {"39.6M": 5}
"""Counted turns where they are not as many as ``FEW``; the larger, the longer."""
FEW = 9


def parser(
    name: str,
    description: str,
    sides: Sequence[str],
    sizes: Sequence[str] = COMPARED,
    table: Mapping[str, Size] = SIZES,
) -> argparse.ArgumentParser:
    """The arguments of every comparison."""
    form = argparse.RawDescriptionHelpFormatter
    arguments = argparse.ArgumentParser(
        prog=f"python -m experiments.benchmark {name}", description=description, formatter_class=form
    )
    arguments.add_argument("sizes", nargs="*", default=list(sizes), help=f"of {', '.join(table)}")
    arguments.add_argument("--sides", nargs="+", default=list(sides), help=f"of {', '.join(sides)}")
    arguments.add_argument("--turns", type=int, default=None, help="counted iterations of each side [9; 5 of 39.6M]")
    arguments.add_argument(
        "--allocator",
        choices=("both", "with", "without"),
        default="both",
        help="large pages, and freed memory that stays with the process, for all sides [both]",
    )
    arguments.add_argument("--core", type=int, default=free_core(), help="to pin to; -1 for none [the last]")
    arguments.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of our phase, e.g. old_log_probs=sampler"
    )
    arguments.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/benchmarks"), help="folder")
    return arguments


def read(arguments: argparse.ArgumentParser, given: list[str], table: Mapping[str, Size] = SIZES) -> argparse.Namespace:
    """The arguments, their names checked."""
    options = arguments.parse_args(given)
    valid = arguments.get_default("sides")
    for what, names, known in (("size", options.sizes, table), ("side", options.sides, valid)):
        unknown = [name for name in names if name not in known]
        if unknown:
            arguments.error(f"{unknown[0]!r} is no {what}; choose of {', '.join(known)}")
    options.core = None if options.core == -1 else options.core
    options.settings = dict(_setting(text) for text in options.set)
    return options


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def compare(name: str, task: str, works: dict[str, Work], options: argparse.Namespace) -> dict[str, list[Timing]]:
    """Measures, prints, and writes ``<name>.json`` and ``<name>.png``.

    Args:
      name: of the subcommand.
      task: a function of the sides.
      works: batches, by name.
      options: of :func:`read`.

    Returns:
      Timings by size, batch and allocator.
    """
    sides = present(options.sides)
    if not sides:
        sys.exit(f"benchmark {name}: none of the sides is installed")
    results: dict[str, list[Timing]] = {}
    for size in options.sizes:
        for batch, work in works.items():
            with scratch() as folder:
                write_folder(pathlib.Path(folder), SIZES[size], work)
                for allocator in {"both": (True, False), "with": (True,), "without": (False,)}[options.allocator]:
                    jobs = [_job(side, task, folder, size, work, allocator, options) for side in sides]
                    title = ", ".join(filter(None, (size, batch, "" if allocator else "default allocator")))
                    results[title] = alternate(jobs, options.turns or TURNS.get(size, FEW))
                    show.print_timings(f"{name}, {title}: CPU seconds an iteration", results[title])
    values = {title: [timing.dump() for timing in timings] for title, timings in results.items()}
    show.write_json(options.output / f"{name}.json", f"{name} {' '.join(sys.argv[2:])}", values)
    panels = {title: [show.bar(timing) for timing in timings] for title, timings in results.items()}
    show.write_bars(options.output / f"{name}.png", panels, "CPU s an iteration")
    return results


def _job(side: str, task: str, folder: str, size: str, work: Work, allocator: bool, options: Any) -> Job:
    library, _, method = side.partition(":")
    settings = options.settings if library == "ours" else {}
    return Job(library, task, method or task, folder, SIZES[size], work, allocator, options.core, settings)
