"""A streamed file is the list that it would be in memory."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gempi_jax.llm.columns import DataError
from gempi_jax.llm.datasets import batch_indices, load_rows
from gempi_jax.llm.streaming import ChosenRows, StreamedRows

CONTENT = b'\xef\xbb\xbf{"q": "a"}\r\n\n{"q": "\xc3\xbc"}\n   \n{"q": "c"}'


def test_it_is_the_list_that_it_would_be_in_memory(tmp_path):
    (tmp_path / "data.jsonl").write_bytes(CONTENT)
    streamed = StreamedRows(tmp_path / "data.jsonl", columns={"q": "prompt"})
    rows = load_rows(tmp_path / "data.jsonl", columns={"q": "prompt"})
    assert len(streamed) == 3
    assert list(streamed) == rows == [{"prompt": "a"}, {"prompt": "ü"}, {"prompt": "c"}]
    assert streamed[-1] == rows[-1]
    assert streamed[::2] == rows[::2]
    assert rows[1] in streamed
    with pytest.raises(IndexError):
        streamed[3]


@settings(max_examples=10)
@given(st.lists(st.text(), min_size=1, max_size=20), st.integers(0, 100))
def test_any_texts_in_any_order(tmp_path_factory, texts, step):
    path = tmp_path_factory.mktemp("rows") / "data.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}, ensure_ascii=False) + "\n\n" for text in texts), newline="")
    streamed = StreamedRows(path)
    for index in batch_indices(len(texts), 4, step, 0):
        assert streamed[int(index)] == {"prompt": texts[index]}


def test_a_bad_row_is_named_when_it_is_read(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"prompt": "a"}\n\n{"prompt": \n')
    streamed = StreamedRows(tmp_path / "data.jsonl")
    with pytest.raises(DataError, match=r"data\.jsonl:3: not JSON"):
        streamed[1]


def test_what_cannot_be_streamed_is_named_at_once(tmp_path):
    path = tmp_path / "data.jsonl"
    with pytest.raises(FileNotFoundError, match="no dataset at"):
        StreamedRows(path)
    path.write_text("\n \n")
    with pytest.raises(DataError, match="is empty"):
        StreamedRows(path)
    path.write_text('{"question": "a"}')
    with pytest.raises(DataError, match=r"data\.jsonl:1: there is no column 'prompt'; there are 'question'"):
        StreamedRows(path)


def test_a_file_that_changes_is_named(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    streamed = StreamedRows(path)
    path.write_text('{"prompt": "longer"}\n{"prompt": "b"}\n')
    with pytest.raises(DataError, match="changed while it was read"):
        streamed[0]


def test_parquet_and_a_folder_of_files(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"prompt": str(i), "reward": i / 2} for i in range(23)]
    # Row groups of 3, so that most rows are in one that is no longer kept.
    for name, part in (("a.parquet", rows[:20]), ("b.parquet", rows[20:])):
        parquet.write_table(pyarrow.Table.from_pylist(part), tmp_path / name, row_group_size=3)
    streamed = StreamedRows(tmp_path)
    assert list(streamed) == load_rows(tmp_path) == rows
    assert [streamed[i] for i in (22, 0, 19, 20, -1, 7)] == [rows[i] for i in (22, 0, 19, 20, -1, 7)]
    (tmp_path / "c.json").write_text("[]")
    with pytest.raises(DataError, match=r"a \.json file cannot be streamed; write one JSON object a line"):
        StreamedRows(tmp_path)


def test_chosen_rows_are_changed_when_they_are_asked_for():
    rows = [{"prompt": text} for text in "abcd"]
    chosen = ChosenRows(rows, range(1, 4), lambda row, place: {**row, "place": place})
    assert list(chosen[1:]) == [{"prompt": "c", "place": 2}, {"prompt": "d", "place": 3}]
    assert (len(chosen), chosen[-1]["prompt"], ChosenRows(rows, [3])[0]) == (3, "d", rows[3])


def test_gsm8k(shared_data):
    path = shared_data / "gsm8k" / "train.jsonl"
    streamed, rows = StreamedRows(path, required=("question",)), load_rows(path, required=("question",))
    assert len(streamed) == len(rows)
    assert streamed[7000:7010] == rows[7000:7010]
