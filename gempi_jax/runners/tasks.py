"""What a run learns from and is judged by: rows with TRL's columns, and reward functions."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from gempi_jax.llm import datasets, rewards, synthetic
from gempi_jax.llm.stories import story_rows
from gempi_jax.runners.build import lookup
from gempi_jax.runners.settings import DataSettings, RunSettings

Row = dict[str, Any]


class Task(NamedTuple):
    """Rows by use.

    Attributes:
      demonstrations: prompt, completion: for SFT and for the tokenizer trained on the spot.
      train: prompt and what the rewards need: for rollouts.
      heldout: the same, never trained on.
    """

    demonstrations: list[Row]
    train: list[Row]
    heldout: list[Row]


def arithmetic(data: DataSettings, seed: int) -> Task:
    """Generated word problems; ``data.split`` keeps the problems for tuning apart from those for final figures."""
    return Task(
        synthetic.arithmetic_rows("demonstrations", data.num_demonstrations, seed),
        synthetic.arithmetic_rows("train", data.num_train, seed),
        synthetic.arithmetic_rows(data.split, data.num_heldout, 0),
    )


def stories(data: DataSettings, seed: int) -> Task:
    """Generated story openings, for rewards over the text."""
    return Task(
        [],
        story_rows("train", data.num_train, seed),
        story_rows(data.split, data.num_heldout, 0),
    )


def jsonl(data: DataSettings, seed: int) -> Task:
    """Files; the training file's completions, where it has them, are the demonstrations."""
    for place, path in (("data.train_path", data.train_path), ("data.heldout_path", data.heldout_path)):
        if not path:
            raise ValueError(f"config.{place} is empty: give the path of a JSONL file")
    train = datasets.load_rows(data.train_path, columns=data.columns)
    heldout = datasets.load_rows(data.heldout_path, columns=data.columns)
    demonstrations = [row for row in train if "completion" in row]
    return Task(
        demonstrations[: data.num_demonstrations or None],
        train[: data.num_train or None],
        heldout[: data.num_heldout or None],
    )


TASKS: dict[str, Callable[[DataSettings, int], Task]] = {"arithmetic": arithmetic, "stories": stories, "jsonl": jsonl}

REWARDS: dict[str, Callable[..., list[float | None]]] = {
    "exact_match": rewards.exact_match,
    "happy_ending": rewards.happy_ending,
    "finished": rewards.finished,
    "no_repetition": rewards.no_repetition,
}


def load_task(settings: RunSettings) -> Task:
    """Reads or makes the rows of a run, with the prompt template around each prompt."""
    task = lookup(TASKS, settings.data.task, "config.data.task")(settings.data, settings.seed)

    def template(row: Row) -> Row:
        # A conversation is rendered by the tokenizer's own chat template.
        if not isinstance(row["prompt"], str):
            return row
        return {**row, "prompt": settings.data.prompt_template.format(prompt=row["prompt"])}

    return Task(*([template(row) for row in rows] for rows in task))


def load_rewards(settings: RunSettings) -> list[rewards.RewardSpec]:
    """The reward functions by name, or by ``package.module:function`` or ``file.py:function``."""
    specs = []
    for name, weight in settings.rewards.items():
        if re.search(r":\w+$", name):
            function = rewards.load_reward(name)
        else:
            function = lookup(REWARDS, name, "config.rewards")
        specs.append(rewards.RewardSpec(name, function, weight))
    return specs
