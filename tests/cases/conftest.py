"""Small models and results of runs, for tests of what users have."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from gempi_jax.runners import llm
from tests.cases import users


@pytest.fixture(scope="session")
def words_model(tmp_path_factory) -> Callable[..., pathlib.Path]:
    """Makes folders of SentencePiece's kind, one for each chat template and set of special tokens."""
    made = {}

    def make(chat: str | None = None, special: tuple[str, ...] = ()) -> pathlib.Path:
        if (chat, special) not in made:
            folder = tmp_path_factory.mktemp("words")
            made[chat, special] = users.write_model(folder / "model", users.words_tokenizer(special), chat)
        return made[chat, special]

    return make


@pytest.fixture(scope="session")
def pieces_model(tmp_path_factory) -> Callable[..., pathlib.Path]:
    """Makes folders of the byte-level kind, one for each chat template."""
    made = {}

    def make(chat: str | None = "chatml") -> pathlib.Path:
        if chat not in made:
            made[chat] = users.write_model(tmp_path_factory.mktemp("pieces") / "model", users.pieces_tokenizer(), chat)
        return made[chat]

    return make


@pytest.fixture
def read_metrics() -> Callable[[pathlib.Path], list[dict[str, Any]]]:
    """The rows of a workdir's ``metrics.jsonl``."""

    def read(workdir: pathlib.Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]

    return read


@pytest.fixture
def planned(tmp_path, monkeypatch) -> Callable[..., tuple[llm.Plan, pathlib.Path]]:
    """Everything of a run but its iterations: checks, and the export of the policy as it came.

    Takes rows to train on and to be judged by (the first two of those by default), the phases, and changes of the
    users' config; gives the plan and the exported folder.
    """

    def start(model, train, heldout=None, phases=("sft",), **changes):
        plans = []
        monkeypatch.setattr(llm, "_train", lambda plan, *_: plans.append(plan) or plan.initial_state())
        folder = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        folder.mkdir()
        files = [users.write_rows(folder / f"{i}.jsonl", rows) for i, rows in enumerate((train, heldout or train[:2]))]
        config = users.users_config(model, *files, *phases)
        config.update_from_flattened_dict(changes)
        export = users.start(config, folder / "workdir")
        return plans[0], export

    return start
