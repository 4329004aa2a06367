"""An iteration of DPO with a live reference, beside Tunix's and TRL's: 8 pairs of 32 + 64 tokens, one update.

python -m experiments.benchmark dpo [0.107M 5.0M 39.6M] [--sides ours:dpo tunix:dpo trl:dpo]
"""

from experiments.speed.compare import compare, parser, read
from experiments.speed.driver import Timing
from experiments.speed.work import Work

SIDES = ("ours:dpo", "tunix:dpo", "trl:dpo")


def main(arguments: list[str]) -> dict[str, list[Timing]]:
    """Prints the tables; returns the timings."""
    options = read(parser("dpo", __doc__, SIDES), arguments)
    return compare("dpo", "dpo", {"": Work(prompts=8, samples=2)}, options)
