"""Small models and results of runs, for tests of what users have."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

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
