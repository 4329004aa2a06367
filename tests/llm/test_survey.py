"""A survey reads every row once and remembers little of each."""

import datetime

import numpy as np
import pytest

from gempi_jax.llm.columns import DataError
from gempi_jax.llm.datasets import load_rows
from gempi_jax.llm.rows import place_of
from gempi_jax.llm.streaming import StreamedRows
from gempi_jax.llm.survey import fill_columns, survey

ROWS = [
    {"prompt": "a", "answer": "1"},
    {"prompt": "b", "answer": None},
    {"prompt": "c", "must_have": ["x"], "completion": "d"},
    {"prompt": "a", "answer": "2"},
    {"prompt": "e"},
    {"prompt": "f", "answer": 3},
    {"prompt": "g", "answer": ""},
    {"prompt": "h", "answer": float("nan")},
]


def test_columns_are_those_of_all_rows():
    found = survey(ROWS)
    assert found.columns == ("prompt", "answer", "must_have", "completion")
    filled = [fill_columns(row, found.columns) for row in ROWS]
    assert filled[1] == {"prompt": "b", "answer": None, "must_have": None}
    # What a completion's absence says stays said.
    assert ["completion" in row for row in filled] == found.answered.tolist() == [i == 2 for i in range(8)]
    assert all({"prompt", "answer", "must_have"} <= row.keys() for row in filled)
    placed = load_rows([{"prompt": "a"}])[0]
    assert place_of(fill_columns(placed, ("b",)), "?") == "row 0 (from 0)"


def test_one_row_of_each_kind_is_chosen():
    found = survey(ROWS)
    # A null is as good as none: b and e are of one kind; an answer of "1" is of another than 3, "" and NaN.
    assert found.of_every_kind(0) == [0, 1, 2, 5, 6, 7]
    assert found.of_every_kind(4) == [0, 1, 2, 3, 5, 6, 7]
    late = survey([{"answer": "1"}] * 1000 + [{"answer": None}] + [{"answer": "2"}] * 1000)
    assert late.of_every_kind(2) == [0, 1, 1000]
    assert late.at(np.arange(1001, 2001)).of_every_kind(1) == [0]


def test_a_fingerprint_is_of_contents_and_their_order():
    found = survey(ROWS)
    again = survey([dict(reversed(row.items())) for row in ROWS])
    assert found.fingerprint() == again.fingerprint() == {"rows": 8, "contents": again.fingerprint()["contents"]}
    others = [ROWS[:-1], [*ROWS[1:], ROWS[0]], [{**ROWS[0], "prompt": "A"}, *ROWS[1:]], []]
    prints = [survey(rows).fingerprint()["contents"] for rows in others]
    assert len({found.fingerprint()["contents"], *prints}) == 5
    part = found.at(np.arange(3))
    assert part.fingerprint() == survey(ROWS[:3]).fingerprint()
    assert (found.prompts[0], len(part.contents)) == (found.prompts[3], 3)
    days = [survey([{"prompt": "a", "day": datetime.date(2020, 1, day)}]).fingerprint() for day in (1, 1, 2)]
    assert days[0] == days[1] != days[2]


def test_of_streamed_rows_it_is_that_of_rows_in_memory_and_reads_all(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b", "answer": 1}\n')
    assert survey(StreamedRows(path)).fingerprint() == survey(load_rows(path)).fingerprint()
    path.write_text('{"prompt": "a"}\n{"prompt": "\\ud83d"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:2: 'prompt' holds '\\ud83d'"):
        survey(iter(StreamedRows(path)))
