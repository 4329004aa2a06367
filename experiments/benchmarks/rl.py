"""An iteration of reinforcement learning, beside Tunix's and TRL's GRPO: rollout, scores, E-step and one update.

    python -m experiments.benchmark rl [0.107M 5.0M 39.6M] [--long] [--ragged] [--sides ours:vmpo tunix:grpo ...]

A random Qwen2 with tied embeddings; 4 prompts of 32 tokens with 4 samples of 64 each, all of them full; a reference
policy is live on every side, AdamW clips the gradient to norm 1.  Ours: V-MPO whose E-step has a KL budget towards the
reference beside that towards pi_t and whose M-step meets its trust region by a line search (``vmpo``) or, as in the
paper, by a multiplier (``vmpo-multiplier``); and GRPO with the peers' settings (beta 0.04, one update).
``--long``: 2 prompts of 512 tokens with 8 samples of 64.  ``--ragged``: completions end after 16 tokens on average.
"""

from experiments.speed.compare import compare, parser, read
from experiments.speed.driver import Timing
from experiments.speed.work import Work

SIDES = ("ours:vmpo", "ours:vmpo-multiplier", "ours:grpo", "tunix:grpo", "trl:grpo")

LONG = Work(prompts=2, samples=8, prompt_length=512)
RAGGED = Work(mean_length=16)


def main(arguments: list[str]) -> dict[str, list[Timing]]:
    """Prints the tables; returns the timings."""
    form = parser("rl", __doc__, SIDES)
    form.add_argument("--long", action="store_true", help="long prompts, many samples")
    form.add_argument("--ragged", action="store_true", help="completions that end early")
    options = read(form, arguments)
    chosen = {"long": LONG} if options.long else {}
    chosen |= {"ragged": RAGGED} if options.ragged else {}
    return compare("rl", "rl", chosen or {"": Work()}, options)
