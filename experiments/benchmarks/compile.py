"""The first iteration of V-MPO with a reference, without any cache: seconds by stage, and programs compiled.

    python -m experiments.benchmark compile [5.0M] [--sides ours:vmpo tunix:grpo trl:grpo] [--core -1]

Wall seconds of the first iteration, of which compiling takes nearly all; the same shapes as ``rl``.  Each side runs by
itself; ``--core -1`` lets it have all cores.  ``rest`` is what XLA does not say: tracing, lowering, host work.
"""

import pathlib
from typing import Any

from experiments.speed import show
from experiments.speed.compare import parser, read
from experiments.speed.driver import alternate, scratch
from experiments.speed.folder import write_folder
from experiments.speed.peers import present
from experiments.speed.work import SIZES, Job, Work

SIDES = ("ours:vmpo", "ours:grpo", "ours:sft", "tunix:grpo", "trl:grpo")
PARTS = ("trace", "lower", "compile")
LONGEST = 8
"""Programs that are listed by name."""


def main(arguments: list[str]) -> dict[str, dict[str, Any]]:
    """Prints a table; returns the figures by size and side."""
    form = parser("compile", __doc__, SIDES, sizes=("5.0M",))
    options = read(form, arguments)
    results = {}
    for size in options.sizes:
        print(f"\ncompile, {size}: the first iteration")
        print(f"{'':16s} {'wall s':>8s} {'CPU s':>8s} {'programs':>9s}" + "".join(f"{name:>9s}" for name in PARTS))
        with scratch() as folder:
            write_folder(pathlib.Path(folder), SIZES[size], Work())
            for side in present(options.sides):
                library, _, method = side.partition(":")
                task, work = ("sft", Work(16, 1)) if method == "sft" else ("rl", Work())
                job = Job(library, task, method, folder, SIZES[size], work, core=options.core)
                results[f"{size}, {side}"] = _first(job)
    show.write_json(options.output / "compile.json", "compile", results)
    bars = [(name, row["wall_s"], row["wall_s"], row["wall_s"]) for name, row in results.items()]
    show.write_bars(options.output / "compile.png", {"first iteration": bars}, "wall s")
    return results


def _first(job: Job) -> dict[str, Any]:
    """The first iteration, and the second's time."""
    (timing,) = alternate([job], turns=1, warm_up=1)
    row, programs = timing.first, timing.first.get("programs", [])
    parts = {part: sum(each["seconds"] for each in programs if each["part"] == part) for part in PARTS}
    compiled = sorted((each for each in programs if each["part"] == "compile"), key=lambda each: -each["seconds"])
    number = f"{len(compiled):9d}" if programs else f"{'-':>9s}"
    shown = "".join(f"{seconds:9.1f}" if programs else f"{'-':>9s}" for seconds in parts.values())
    print(f"{job.side + ' ' + job.method:16s} {row['wall_s']:8.1f} {row['cpu_s']:8.1f} {number}{shown}", flush=True)
    stages = {name.removeprefix("timing_s/"): value for name, value in row.items() if name.startswith("timing_s/")}
    if stages:
        print("    wall s by stage: " + ", ".join(f"{name} {value:.1f}" for name, value in stages.items()))
        print("    compiled: " + ", ".join(f"{each['name']} {each['seconds']:.1f}" for each in compiled[:LONGEST]))
    return {**row, "parts_s": parts, "num_programs": len(compiled), "second_s": timing.turns[0]["wall_s"]}
