"""Tokens per CPU second of sampling, beside transformers' PyTorch: 16 prompts of 32 tokens, 64 new ones of each.

    python -m experiments.benchmark generation [0.107M 5.0M 39.6M] [--ragged] [--shrink] [--sides ours:rollout ...]

At temperature 1, without truncation, to the full length.  ``--ragged``: up to 256 tokens, which end after 64 on
average.  ``--shrink``: 64 and 256 such sequences of up to 128 tokens after 32 on average, with and without batches that
shrink as sequences end (the setting ``shrink`` of a phase).
"""

from experiments.speed.compare import compare, parser, read
from experiments.speed.driver import Timing
from experiments.speed.work import Work

SIDES = ("ours:rollout", "pytorch:generate")
SHRINKING = ("ours:rollout", "ours:shrink-8", "ours:shrink-16")

FULL = Work(prompts=16, samples=1)
RAGGED = Work(prompts=16, samples=1, completion_length=256, mean_length=64)
SHRUNK = {
    f"{prompts} x {samples}": Work(prompts, samples, completion_length=128, mean_length=32)
    for prompts, samples in ((64, 1), (16, 4), (64, 4))
}


def main(arguments: list[str]) -> dict[str, list[Timing]]:
    """Prints the tables, and tokens per second; returns the timings."""
    form = parser("generation", __doc__, dict.fromkeys((*SIDES, *SHRINKING)))
    form.add_argument("--ragged", action="store_true", help="sequences that end early")
    form.add_argument("--shrink", action="store_true", help="with and without batches that shrink")
    options = read(form, arguments)
    if options.sides == form.get_default("sides"):
        options.sides = list(SHRINKING if options.shrink else SIDES)
    works = SHRUNK if options.shrink else {"ragged": RAGGED} if options.ragged else {"": FULL}
    results = compare("generation", "generation", works, options)
    for title, timings in results.items():
        for timing in timings:
            tokens = sum(turn["tokens"] for turn in timing.turns) / sum(timing.seconds)
            print(f"{title}: {timing.job.side} {timing.job.method} {tokens:.0f} tokens/s")
    return results
