"""Which figures a report shows, as data."""

from collections.abc import Sequence
from typing import NamedTuple


class Line(NamedTuple):
    """A metric in a panel; a name that ends in ``*`` stands for all metrics that begin so."""

    metric: str
    label: str


class Panel(NamedTuple):
    """A figure of the report.

    Attributes:
      title: of the figure.
      note: what to look for.
      lines: metrics that share the axes.
      reference: a level that means something, and its name; "" draws none.
      share: values are shares, shown in per cent.
      per_phase: phases mean different things and get a figure each.
      positive: a value of 0 says that there is none, as the temperature of SFT does, and is not drawn.
    """

    title: str
    note: str
    lines: tuple[Line, ...]
    reference: tuple[float, str] | None = None
    share: bool = False
    per_phase: bool = False
    positive: bool = False


PROGRESS = Panel(
    "Held-out result and training reward",
    "Dots: greedy answers to held-out problems. Line: mean reward of the sampled training completions.",
    (
        Line("heldout/reward", "held out"),
        Line("reward", "training reward"),
    ),
)
RETURNS = Panel(
    "Return of an episode",
    "Dots: the greedy policy. Line: as it acts while it learns. Several seeds: their mean and its 95 % interval.",
    (
        Line("heldout/episode/return", "greedy return"),
        Line("episode/return", "return while learning"),
    ),
)
PANELS = (
    Panel(
        "KL over its budget",
        "A constraint that works keeps the curve at or below 1.",
        (Line("mstep/kl_over_budget*", "M-step"), Line("estep/kl_over_budget/*", "E-step")),
        reference=(1.0, "budget"),
    ),
    Panel(
        "Effective sample size",
        "Share of the batch that carries the update; near 0 a few samples decide.",
        (Line("estep/ess_fraction", "ESS / N"), Line("estep/selected_fraction", "selected")),
        share=True,
    ),
    Panel(
        "Temperature",
        "High: all samples count alike. Low: the best ones alone.",
        (Line("estep/temperature", "Λ"),),
        positive=True,
    ),
    Panel(
        "Multiplier of the trust region",
        "Rises while KL is above its budget, falls while it is below.",
        (Line("mstep/multiplier*", "α"),),
    ),
    Panel("Loss", "What the optimiser minimises in this phase.", (Line("loss", "loss"),), per_phase=True),
    Panel(
        "Entropy",
        "Of the policy per token or action, in nats; near 0 nothing new is tried.",
        (Line("entropy", "entropy"),),
    ),
    Panel(
        "Episode length",
        "Steps of the environment.",
        (Line("heldout/episode/length", "greedy"), Line("episode/length", "while learning")),
    ),
    Panel(
        "Explained variance of the critic",
        "1: V knows the returns; 0 and below: it knows no more than their mean.",
        (Line("value/explained_variance", "explained"),),
        reference=(0.0, "mean"),
    ),
    Panel(
        "Completion length",
        "In tokens, the end token included.",
        (Line("completions/mean_length", "training"), Line("heldout/completions/mean_length", "held out")),
    ),
    Panel(
        "Completions that teach nothing",
        "Groups whose rewards are all equal, and completions cut off at the length limit.",
        (Line("frac_reward_zero_std", "flat groups"), Line("completions/clipped_ratio", "cut off")),
        share=True,
    ),
    Panel("Gradient norm", "Before clipping.", (Line("grad_norm", "norm"),), per_phase=True),
    Panel("Learning rate", "Of the parameters' optimiser.", (Line("learning_rate", "rate"),)),
    Panel("Speed", "Tokens per second of a step, generation included.", (Line("perf/tokens_per_second", "tokens/s"),)),
    Panel("Speed", "Steps per second, learning included, all seeds.", (Line("perf/steps_per_second", "steps/s"),)),
)


def expand(panel: Panel, names: Sequence[str]) -> list[tuple[str, str]]:
    """The panel's lines as (label, metric), a ``*`` at a name's end replaced by what was recorded."""
    found = []
    for label, metric in ((line.label, line.metric) for line in panel.lines):
        prefix = metric.removesuffix("*")
        for name in (name for name in names if name == metric or (metric != prefix and name.startswith(prefix))):
            suffix = name[len(prefix) :].strip("/")
            found.append((f"{label}, {suffix}" if suffix else label, name))
    return found
