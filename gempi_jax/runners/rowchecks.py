"""What is asked of rows before a run, beyond each row by itself: rewards, evaluation data, and the run that goes on."""

import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from gempi_jax.llm.datasets import find_files
from gempi_jax.llm.encoding import as_written
from gempi_jax.llm.rewards import RewardError, RewardSpec, preflight
from gempi_jax.llm.rows import place_of, replaced
from gempi_jax.llm.survey import Survey

_logger = logging.getLogger(__name__)
Row = dict[str, Any]
_TRIAL_ROWS = 32
_SPOKEN = {
    "demonstrations": "demonstrations",
    "train": "training rows",
    "heldout": "held-out rows",
    "preferences": "preferences",
}


def check_apart(train_path: str, heldout_path: str) -> None:
    """Is no file that judges read for training, too?  The same path for both is taken as a choice.

    Raises:
      ValueError: names the file.
    """
    train, heldout = (
        {file.resolve(): file for file in find_files(pathlib.Path(path).expanduser())}
        for path in (train_path, heldout_path)
    )
    shared = sorted(train.keys() & heldout.keys())
    if shared and train.keys() != heldout.keys():
        raise ValueError(
            f"config.data.heldout_path = {heldout_path!r}: {heldout[shared[0]]} is also read by config.data.train_path "
            f"= {train_path!r}, so it would be trained on; move it into another folder, or name the file to train on"
        )


def say_overlap(train: Survey, judged: Survey, heldout: Sequence[Row]) -> None:
    """Warns of held-out prompts that are training prompts, too."""
    known = np.flatnonzero(np.isin(judged.prompts, train.prompts))
    if known.size:
        _logger.warning(
            "%d of the %d held-out prompts are also trained on (first %s): on these, held-out figures say what was "
            "learnt by heart.",
            known.size,
            len(heldout),
            place_of(heldout[int(known[0])], f"row {known[0]} (from 0)"),
        )


def try_rewards(
    specs: Sequence[RewardSpec], rows: Sequence[Row], surveyed: Survey, tokenizer: PreTrainedTokenizerBase | None = None
) -> None:
    """Calls all reward functions on the first rows, and on one of each kind: with a null, say, where others have none.

    Gold completions are read as the policy would write them, where its tokenizer is known.

    Raises:
      RewardError: what :func:`preflight` raises, with the row's place.
    """
    tried = [rows[i] for i in surveyed.of_every_kind(_TRIAL_ROWS)]
    golds = tried if tokenizer is None else as_written(tokenizer, tried)
    tried = [replaced(row, {**gold, "ended": True}) for row, gold in zip(tried, golds, strict=True)]
    for start in range(0, len(tried), _TRIAL_ROWS):
        part = tried[start : start + _TRIAL_ROWS]
        try:
            preflight(specs, part)
        except RewardError as error:
            raise _with_place(error, specs, part) from error


def _with_place(error: RewardError, specs: Sequence[RewardSpec], rows: Sequence[Row]) -> RewardError:
    """The error of the first row that fails alone, with its place."""
    for row in rows:
        try:
            preflight(specs, [row])
        except RewardError as alone:
            nulls = ", ".join(repr(name) for name, value in row.items() if value is None)
            hint = f" Null in this row: {nulls}." if nulls else ""
            return RewardError(f"{place_of(row, 'the first row')}: {alone}{hint}")
    return error


def say_changed(then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """Warns where a run goes on with other rows than it began with; each by its :meth:`Survey.fingerprint`."""
    changed = []
    for name, found in now.items() if then else ():
        began = then.get(name, found)
        if began["rows"] != found["rows"]:
            changed.append(f"{_SPOKEN[name]} ({found['rows']} now, {began['rows']} then)")
        elif began != found:
            changed.append(f"{_SPOKEN[name]} ({found['rows']} as then, with other contents or in another order)")
    if changed:
        _logger.warning(
            "The %s are not those that this run began with: it goes on with them as they are now, and will not end as "
            "one that was never stopped.",
            " and the ".join(changed),
        )
