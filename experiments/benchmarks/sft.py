"""A step of supervised fine-tuning beside a plain step of AdamW in PyTorch: 16 rows of 32 + 64 tokens.

    python -m experiments.benchmark sft [0.107M 5.0M 39.6M] [--sides ours:sft pytorch:sft]

Ours is the runner's iteration: what it has beside PyTorch's step, metrics among it, counts.
"""

from experiments.speed.compare import compare, parser, read
from experiments.speed.driver import Timing
from experiments.speed.work import Work

SIDES = ("ours:sft", "pytorch:sft")


def main(arguments: list[str]) -> dict[str, list[Timing]]:
    """Prints the tables; returns the timings."""
    options = read(parser("sft", __doc__, SIDES), arguments)
    return compare("sft", "sft", {"": Work(prompts=16, samples=1)}, options)
