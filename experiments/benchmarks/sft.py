"""A step of supervised fine-tuning beside a plain step of AdamW in PyTorch: 16 rows of 32 + 64 tokens.

    python -m experiments.benchmark sft [0.107M 5.0M 39.6M] [--packed] [--sides ours:sft pytorch:sft]

``--packed``: 16 rows of 8 + 16 tokens where there is room for 96, packed into rows of 96 and not.
"""

import dataclasses

from experiments.speed.compare import compare, parser, read
from experiments.speed.driver import Timing
from experiments.speed.work import Work
from gempi_jax.runners.settings import PhaseSettings

SIDES = ("ours:sft", "pytorch:sft")
PACKED = ("ours:sft", "ours:sft-packed")
SHORT = Work(prompts=16, samples=1, prompt_length=8, completion_length=88, row_length=16)


def main(arguments: list[str]) -> dict[str, list[Timing]]:
    """Prints the tables; returns the timings."""
    form = parser("sft", __doc__, dict.fromkeys((*SIDES, *PACKED)))
    form.add_argument("--packed", action="store_true", help="short rows, packed and not")
    options = read(form, arguments)
    if options.sides == form.get_default("sides"):
        options.sides = list(PACKED if options.packed else SIDES)
    if "ours:sft-packed" in options.sides and not _packs():
        print("ours:sft-packed: skipped, a phase has no setting `packing` in this version", flush=True)
        options.sides.remove("ours:sft-packed")
    works = {"short rows": SHORT} if options.packed else {"": Work(prompts=16, samples=1)}
    return compare("sft", "sft", works, options)


def _packs() -> bool:
    return "packing" in {field.name for field in dataclasses.fields(PhaseSettings)}
