"""Peak memory of an iteration of V-MPO with a reference against batch, length and vocabulary, and what XLA allocates.

    python -m experiments.benchmark memory [5.0M] [--sides ours:vmpo ours:grpo tunix:grpo trl:grpo] [--factors 1 2 4]

Resident memory at its largest, of a process of its own for each shape; the most that one compiled program takes for
temporary arrays; and the largest array of logits in any program, in whatever order its axes are.  The exit status is 1
where a program of ours holds more of them than ``gempi_jax.llm.scoring`` lets exist at a time: [B, T, V] of a batch
whose logits take more than 64 MiB.
"""

import dataclasses
import pathlib
import sys
import tempfile
from typing import Any

from experiments.speed import show
from experiments.speed.compare import parser, read
from experiments.speed.driver import alternate, scratch
from experiments.speed.folder import write_folder
from experiments.speed.hlo import largest_logits, temporary_bytes
from experiments.speed.peers import present
from experiments.speed.work import SIZES, Job, Size, Work
from gempi_jax.llm.scoring import FEWEST_POSITIONS, LOGITS_BYTES

SIDES = ("ours:vmpo",)
PEERS = ("ours:grpo", "tunix:grpo", "trl:grpo")


def main(arguments: list[str]) -> list[dict[str, Any]]:
    """Prints a table; returns its rows."""
    form = parser("memory", __doc__, (*SIDES, *PEERS), sizes=("5.0M",))
    form.add_argument("--factors", type=int, nargs="+", default=[1, 2, 4], help="of batch, length and vocabulary")
    options = read(form, arguments)
    sides = list(SIDES) if options.sides == form.get_default("sides") else options.sides
    rows = []
    print(f"{'':34s} {'peak MiB':>9s} {'temporary MiB':>14s} {'largest logits':>20s}  of [B, T, V]")
    for size in options.sizes:
        for name, shape, work in shapes(SIZES[size], options.factors):
            for side in present(sides):
                rows.append({"size": size, "shape": name, "side": side, **_measure(side, shape, work, options)})
                _print(rows[-1])
    show.write_json(options.output / "memory.json", "memory", rows)
    bars = [(f"{row['side']} {row['size']} {row['shape']}", *3 * (row["peak_mib"],)) for row in rows]
    show.write_bars(options.output / "memory.png", {"peak resident memory": bars}, "MiB")
    ours = (row for row in rows if row["side"].startswith("ours"))
    over = [f"{row['size']} {row['shape']} ({row['largest_logits']})" for row in ours if row["over_limit"]]
    if over:
        sys.exit(f"memory: more logits at a time than {LOGITS_BYTES / 2**20:.0f} MiB in {', '.join(over)}")
    return rows


def shapes(size: Size, factors: list[int]) -> list[tuple[str, Size, Work]]:
    """The shape of ``rl``, then with more prompts, longer completions, or a larger vocabulary."""
    work, result = Work(), []
    for factor in factors:
        result.append((f"prompts x {factor}", size, dataclasses.replace(work, prompts=work.prompts * factor)))
    for factor in (factor for factor in factors if factor > 1):
        longer = dataclasses.replace(work, completion_length=work.completion_length * factor)
        result.append((f"length x {factor}", size, longer))
    for factor in (factor for factor in factors if factor > 1):
        larger = dataclasses.replace(size, vocab_size=size.vocab_size * factor)
        result.append((f"vocabulary x {factor}", larger, work))
    return result


def _measure(side: str, size: Size, work: Work, options: Any) -> dict[str, Any]:
    library, _, method = side.partition(":")
    with scratch() as folder, tempfile.TemporaryDirectory() as dumped:
        write_folder(pathlib.Path(folder), size, work)
        jax = library != "trl"
        job = Job(library, "rl", method, folder, size, work, core=options.core, dump=dumped if jax else "")
        (timing,) = alternate([job], turns=2, warm_up=1)
        texts = [path.read_text(encoding="utf-8") for path in pathlib.Path(dumped).glob("*after_optimizations.txt")]
        buffers = [path.read_text(encoding="utf-8") for path in pathlib.Path(dumped).glob("*buffer-assignment.txt")]
    whole = work.prompts * work.samples * work.completion_length * size.vocab_size
    logits = max((largest_logits(text, size.vocab_size) for text in texts), key=lambda found: found[0], default=(0, ""))
    return {
        "peak_mib": timing.peak_mib,
        "temporary_mib": max(map(temporary_bytes, buffers), default=0) / 2**20,
        "largest_logits": logits[1],
        "share_of_whole": logits[0] / whole,
        "over_limit": logits[0] > max(LOGITS_BYTES // 4, FEWEST_POSITIONS * size.vocab_size),
    }


def _print(row: dict[str, Any]) -> None:
    name = f"{row['size']} {row['shape']} {row['side']}"
    line = f"{name:34s} {row['peak_mib']:9.0f} {row['temporary_mib']:14.0f} {row['largest_logits'] or '-':>20s}"
    print(f"{line}  {row['share_of_whole']:.3f}", flush=True)
