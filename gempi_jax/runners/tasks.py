"""What a run learns from and is judged by: rows with TRL's columns, and reward functions."""

import functools
import logging
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gempi_jax.llm import conversions, datasets, rewards, synthetic
from gempi_jax.llm.columns import DataError, check_row, is_text_row
from gempi_jax.llm.preferences import ANSWERS
from gempi_jax.llm.rewards import classifier
from gempi_jax.llm.rows import place_of, replaced
from gempi_jax.llm.stories import story_rows
from gempi_jax.llm.streaming import ChosenRows, StreamedRows
from gempi_jax.llm.survey import Survey, fill_columns, survey
from gempi_jax.runners.build import check_home, lookup
from gempi_jax.runners.rowchecks import check_apart, say_overlap
from gempi_jax.runners.settings import DataSettings, RunSettings

_logger = logging.getLogger(__name__)
Row = dict[str, Any]


class Task(NamedTuple):
    """Rows by use.

    Attributes:
      demonstrations: prompt, completion: for SFT and for the tokenizer trained on the spot.
      train: prompt and what the rewards need: for rollouts.
      heldout: the same, never trained on.
      surveys: of each of these, by its name.
      preferences: prompt, chosen, rejected.
    """

    demonstrations: Sequence[Row]
    train: Sequence[Row]
    heldout: Sequence[Row]
    surveys: Mapping[str, Survey]
    preferences: Sequence[Row] = ()

    @classmethod
    def of_lists(cls, demonstrations: list[Row], train: list[Row], heldout: list[Row]) -> "Task":
        """Of rows in memory that have the same columns each."""
        rows = {"demonstrations": demonstrations, "train": train, "heldout": heldout}
        return cls(**rows, surveys={name: survey(each) for name, each in rows.items()})

    def fingerprint(self) -> dict[str, Any]:
        """By which a run that goes on knows its rows again."""
        return {name: found.fingerprint() for name, found in self.surveys.items()}


def arithmetic(data: DataSettings, seed: int) -> Task:
    """Generated word problems; ``data.split`` keeps the problems for tuning apart from those for final figures."""
    return Task.of_lists(
        synthetic.arithmetic_rows("demonstrations", data.num_demonstrations, seed),
        synthetic.arithmetic_rows("train", data.num_train, seed),
        synthetic.arithmetic_rows(data.split, data.num_heldout, 0),
    )


def stories(data: DataSettings, seed: int) -> Task:
    """Generated story openings, for rewards over the text."""
    return Task.of_lists(
        [],
        story_rows("train", data.num_train, seed),
        story_rows(data.split, data.num_heldout, 0),
    )


def jsonl(data: DataSettings, seed: int) -> Task:
    """Files; the training file's completions, where it has them, are the demonstrations."""
    for place, path in (("data.train_path", data.train_path), ("data.heldout_path", data.heldout_path)):
        if not path:
            raise ValueError(
                f"config.{place} is empty: give a .jsonl or .parquet file, a folder of such files or one that "
                "datasets saved"
            )
    check_apart(data.train_path, data.heldout_path)
    opened, keep = (StreamedRows, _as_it_is) if data.stream else (datasets.load_rows, list)
    # A row's prompt may be in its messages; which rows have neither is said when they are surveyed.
    train = opened(data.train_path, columns=data.columns, required=())
    judged = opened(data.heldout_path, columns=data.columns, required=())[: data.num_heldout or None]
    # Whole conversations are learnt from with all turns of the assistant, and asked for the last one; texts are learnt
    # from whole, and asked for their second half.
    ask = functools.partial(_asked, longest=data.max_prompt_length)
    found, heldout = survey(map(_whole, train)), survey(map(ask, judged))
    answered = np.flatnonzero(found.answered)[: data.num_demonstrations or None]
    asked = np.arange(len(train))[: data.num_train or None]
    compared = np.flatnonzero(found.compared)[: data.num_train or None]

    def chosen(index: np.ndarray, form: Callable[[Row], Row]) -> Sequence[Row]:
        return keep(ChosenRows(train, index, lambda row, _: fill_columns(form(row), found.columns)))

    task = Task(
        chosen(answered, _whole),
        chosen(asked, ask),
        [fill_columns(ask(row), heldout.columns) for row in judged],
        {"demonstrations": found.at(answered), "train": found.at(asked), "heldout": heldout},
    )
    if len(compared):
        surveys = {**task.surveys, "preferences": found.at(compared)}
        task = task._replace(preferences=chosen(compared, _whole), surveys=surveys)
    say_overlap(found.at(np.union1d(answered, asked)), heldout, task.heldout)
    return task


def _as_it_is(rows: Sequence[Row]) -> Sequence[Row]:
    return rows


def _whole(row: Row) -> Row:
    """A row with its conversation or its pair, where it has one, and a prompt; a text stays as it is."""
    return row if is_text_row(row) else replaced(row, {**row, **_asked(row, 0)})


def _asked(row: Row, longest: int) -> Row:
    """A row with a prompt: of a whole conversation, all before the assistant's last turn, whatever stands beside it.

    Of a text, its first half, with no more characters than prompts may have tokens (``longest``).
    """
    where = place_of(row, "a row")
    if is_text_row(row):
        return replaced(row, conversions.cut_text(row, longest))
    convert = conversions.to_prompt_completion
    if "messages" in row:
        if "prompt" in row:
            _say_messages_win()
    elif row.keys() >= set(ANSWERS):
        check_row(row, ANSWERS, where)
        convert = conversions.extract_prompt
    else:
        check_row(row, ("prompt",), where)
        return row
    try:
        return replaced(row, convert(row))
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


@functools.cache
def _say_messages_win() -> None:
    _logger.warning(
        "Rows have 'prompt' beside 'messages': the conversations are read. For the prompts instead, give 'messages' "
        "another name in config.data.columns, {'messages': 'conversation'} say."
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
    if settings.data.stream:
        _check_stream(settings)
    make = lookup(TASKS, settings.data.task, "config.data.task")
    for name in ("train_path", "heldout_path", "columns"):
        if make is not jsonl and (given := getattr(settings.data, name)):
            raise ValueError(
                f"config.data.{name} = {given!r}: task {settings.data.task!r} makes its rows and reads no file; leave "
                "it empty, or set config.data.task to 'jsonl'"
            )
    task = make(settings.data, settings.seed)

    def template(row: Row) -> Row:
        # A conversation is rendered by the tokenizer's own chat template.
        if not isinstance(row.get("prompt"), str):
            return row
        return replaced(row, {**row, "prompt": settings.data.prompt_template.format(prompt=row["prompt"])})

    def templated(rows: Sequence[Row]) -> Sequence[Row]:
        if isinstance(rows, list | tuple):
            return [template(row) for row in rows]
        return ChosenRows(rows, range(len(rows)), lambda row, _: template(row))

    return task._replace(**{name: templated(rows) for name, rows in task._asdict().items() if name != "surveys"})


def _check_stream(settings: RunSettings) -> None:
    if settings.data.task != "jsonl":
        raise ValueError(f"config.data.stream: task {settings.data.task!r} makes its rows; stream is for task 'jsonl'")
    if not settings.model.path:
        raise ValueError(
            "config.data.stream: a new model's tokenizer is trained on all rows, in memory; give config.model.path"
        )


CLASSIFIER = "classifier:"
SCORES = {"logit": classifier.logit, "log_prob": classifier.log_prob, "prob": classifier.prob}
TEXTS = {"both": classifier.prompt_and_completion, "completion": classifier.completion_alone}


def load_rewards(settings: RunSettings) -> list[rewards.RewardSpec]:
    """The reward functions by name, by ``package.module:function`` or ``file.py:function``, or of a classifier."""
    named = [*settings.rewards.items(), *map(_weighted, settings.reward_functions)]
    return [rewards.RewardSpec(name, _reward(name), weight) for name, weight in named]


def _weighted(text: str) -> tuple[str, float]:
    """Name and weight of ``NAME`` or ``WEIGHT*NAME``."""
    weight, star, name = text.partition("*")
    if not star:
        return text, 1.0
    try:
        return name.strip(), float(weight)
    except ValueError:
        raise ValueError(
            f"config.reward_functions = {text!r}: {weight!r} is no weight; write NAME, or WEIGHT*NAME such as "
            "0.5*own.py:reward"
        ) from None


def _reward(name: str) -> Callable[..., list[float | None]]:
    if name.startswith(CLASSIFIER):
        return _classifier(name)
    if re.search(r":\w+$", name) or name.endswith(".py"):
        return rewards.load_reward(name)
    return lookup(REWARDS, name, "config.rewards")


def _classifier(name: str) -> Callable[..., list[float | None]]:
    """The reward that ``classifier:FOLDER?label=NAME&score=logit&text=both&max_length=128`` describes."""
    folder, _, query = name.removeprefix(CLASSIFIER).partition("?")
    place = f"config.rewards[{name!r}]"
    check_home(folder, place)
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    for option in options:
        lookup(dict.fromkeys(("label", "score", "text", "max_length")), option, place)
    length = options.get("max_length")
    if length is not None and not length.isdecimal():
        raise ValueError(f"{place}: max_length = {length!r} is no whole number")
    return rewards.sequence_classifier(
        folder,
        label=options.get("label"),
        score=lookup(SCORES, options.get("score", "logit"), f"{place}: score"),
        text=lookup(TEXTS, options.get("text", "both"), f"{place}: text"),
        max_length=None if length is None else int(length),
        compiled=jax.jit,
    )
