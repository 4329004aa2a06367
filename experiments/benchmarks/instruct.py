"""V-MPO with a reference on an instruct model of a folder: SmolLM2-135M, 8 prompts with 8 samples of at most 48 tokens.

    python -m experiments.benchmark instruct --model FOLDER [--turns 2] [--set old_log_probs=sampler]

Seconds of an iteration by stage, and resident memory at its largest.  The model writes answers to arithmetic questions
through its own chat template, and ends them itself; all parameters train.  Skipped, by name, where there is no folder.
"""

import json
import pathlib
import statistics
from typing import Any

from experiments.speed import show
from experiments.speed.compare import parser, read
from experiments.speed.driver import Timing, alternate, scratch
from experiments.speed.work import SIZES, Job, Work

SIDES = ("ours:vmpo", "ours:vmpo-multiplier", "ours:grpo")
WORK = Work(prompts=8, samples=8, prompt_length=64, completion_length=48)
ROWS = 64


def main(arguments: list[str]) -> dict[str, Any]:
    """Prints the figures; returns them by side."""
    form = parser("instruct", __doc__, SIDES, sizes=())
    form.add_argument("--model", type=pathlib.Path, default=pathlib.Path("runs/smollm2"), help="[runs/smollm2]")
    options = read(form, arguments)
    if not (options.model / "config.json").is_file():
        print(f"instruct: skipped, there is no model in {options.model}; give --model FOLDER")
        return {}
    sides = ["ours:vmpo"] if options.sides == form.get_default("sides") else options.sides
    results = {}
    with scratch() as folder:
        _prepare(pathlib.Path(folder), options.model)
        for side in sides:
            job = Job("ours", "rl", side.partition(":")[2], folder, SIZES["toy"], WORK, core=options.core,
                      settings=options.settings)  # fmt: skip
            (timing,) = alternate([job], turns=options.turns or 2, warm_up=1)
            results[side] = _say(timing)
    show.write_json(options.output / "instruct.json", "instruct", results)
    panels = {
        side: [("iteration", *3 * (row["cpu_s"],)), *((name, *3 * (value,)) for name, value in row["stages_s"].items())]
        for side, row in results.items()
    }
    show.write_bars(options.output / "instruct.png", panels, "seconds")
    return results


def _prepare(folder: pathlib.Path, model: pathlib.Path) -> None:
    (folder / "model").symlink_to(model.resolve(), target_is_directory=True)
    for name, first in (("rl", 0), ("heldout", ROWS)):
        questions = [f"What is {3 + i % 17} times {2 + i % 13}, plus {i}? Answer briefly." for i in range(ROWS)]
        questions = [f"{text} ({first + i})" for i, text in enumerate(questions)]
        rows = [{"prompt": [{"role": "user", "content": text}]} for text in questions]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _say(timing: Timing) -> dict[str, Any]:
    """Medians over the turns."""
    names = [name for name in timing.turns[0] if name.startswith("timing_s/")]
    stages = {name.removeprefix("timing_s/"): statistics.median(turn[name] for turn in timing.turns) for name in names}
    lengths = statistics.mean(turn["completions/mean_length"] for turn in timing.turns)
    row = {
        "cpu_s": timing.median,
        "least_s": min(timing.seconds),
        "most_s": max(timing.seconds),
        "first_s": timing.first["wall_s"],
        "peak_mib": timing.peak_mib,
        "mean_length": lengths,
        "stages_s": stages,
    }
    print(
        f"instruct, {timing.job.method}: {row['cpu_s']:.1f} CPU s an iteration "
        f"({row['least_s']:.1f}-{row['most_s']:.1f}), first {row['first_s']:.0f} s, "
        f"peak {row['peak_mib'] / 1024:.1f} GiB, completions of {lengths:.1f} tokens\n"
        f"    wall s by stage: " + ", ".join(f"{name} {value:.1f}" for name, value in stages.items()),
        flush=True,
    )
    return row
