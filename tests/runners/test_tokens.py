"""Rows that are read batch by batch give the batches of rows that are encoded at once."""

import json

import numpy as np
import pytest

from configs.llm import gsm8k
from gempi_jax.llm import TooLong, batch_indices, train_tokenizer
from gempi_jax.llm.datasets import load_rows
from gempi_jax.llm.streaming import ChosenRows
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.tasks import load_task
from gempi_jax.runners.tokens import Encoding, Stored, Streamed

# Of "two " n times, n tokens in a prompt, which leaves the space at its end to what follows; one more in a completion.
ROWS = [{"prompt": "two " * (1 + i % 7), "completion": "four " * (1 + i % 5), "i": i} for i in range(2500)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["two two", "four four"], 300, largest_number=12)


def encoding(tokenizer, prompts=TooLong.DROP, completions=TooLong.DROP, *, learns=True, longest=9):
    return Encoding(tokenizer, longest, 5, prompts, completions, ("completion",) if learns else ())


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("policy", [TooLong.DROP, TooLong.TRUNCATE])
def test_batches_are_those_of_rows_in_memory(tokenizer, policy, learns):
    how = encoding(tokenizer, policy, policy, learns=learns, longest=4)
    stored, streamed = Stored(ROWS, how), Streamed(ChosenRows(ROWS, range(len(ROWS))), how)
    counts = (stored.num_dropped, stored.num_truncated, stored.num_straddling)
    assert counts == (streamed.num_dropped, streamed.num_truncated, streamed.num_straddling)
    assert max(counts) > 0
    assert stored.widths == streamed.widths
    assert list(streamed.rows) == stored.rows
    index = batch_indices(len(stored.rows), 16, 3, 0)
    rows = [stored.rows[i] for i in index]
    for one, other in zip(stored.take(index, rows), streamed.take(index, rows), strict=True):
        np.testing.assert_equal(one, other)


def test_rows_that_are_too_long_are_named(tokenizer):
    with pytest.raises(ValueError, match="row 2: its prompt is longer than 2 tokens, as in 1785 of 2500 rows"):
        Streamed(ChosenRows(ROWS, range(2500)), encoding(tokenizer, TooLong.ERROR, longest=2))
    with pytest.raises(ValueError, match=r"every one of the 3 rows is longer than \[0, 5\] tokens; raise"):
        Streamed(ChosenRows(ROWS, range(3)), encoding(tokenizer, longest=0))
    broken = [*ROWS[:2000], {"prompt": [{"role": "user", "content": "a"}], "completion": "b"}]
    with pytest.raises(ValueError, match="of the rows from 1024: the dataset has role lists, but the tokenizer has no"):
        Streamed(ChosenRows(broken, range(2001)), encoding(tokenizer))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_row_that_cannot_be_encoded_is_named_by_its_place(tokenizer, streamed):
    def refused(rows, how, message):
        rows = load_rows(rows)
        with pytest.raises(ValueError, match=message):
            Streamed(ChosenRows(rows, range(len(rows))), how) if streamed else Stored(rows, how)

    long, role_list = {"prompt": "two " * 9}, [{"role": "user", "content": "a"}]
    error, drop = (encoding(tokenizer, policy, learns=False, longest=4) for policy in (TooLong.ERROR, TooLong.DROP))
    refused([ROWS[0], ROWS[1], long, long], error, r"^row 2 \(from 0\): .* longer than 4 tokens")
    # What is dropped is not at fault.
    refused([long, ROWS[1], {"prompt": role_list}], drop, r"^row 2 \(from 0\): the dataset has role lists")


def test_a_streamed_task_has_the_rows_of_one_in_memory(tmp_path):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [{"prompt": "q", "completion": "c"}, {"messages": messages}, {"prompt": "no answer"}, {"prompt": "d"}]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = gsm8k.get_config("quick")
    config.unlock()
    config.model.path = "somewhere"
    config.data.update({"train_path": str(tmp_path / "train.jsonl"), "heldout_path": str(tmp_path / "test.jsonl")})
    config.data.columns, config.data.num_train = {}, 3
    stored = load_task(settings_from_config(config))
    config.data.stream = True
    streamed = load_task(settings_from_config(config))
    assert isinstance(streamed.train, ChosenRows)
    assert [list(rows) for rows in streamed] == [list(rows) for rows in stored]
    assert len(streamed.demonstrations) == 2
    assert streamed.train[0]["prompt"] == "Question: q\nAnswer:\n"
    config.model.path = ""
    with pytest.raises(ValueError, match=r"config\.data\.stream: .* give config\.model\.path"):
        load_task(settings_from_config(config))
    config.data.task = "arithmetic"
    with pytest.raises(ValueError, match=r"config\.data\.stream: task 'arithmetic' makes its rows"):
        load_task(settings_from_config(config))


@pytest.mark.parametrize("stream", [False, True])
def test_a_task_reads_parquet_and_saved_datasets(tmp_path, stream):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.Table.from_pylist([{"question": f"q{i}", "answer": f"#### {i}"} for i in range(5)])
    parquet.write_table(table, tmp_path / "train.parquet")
    saved = tmp_path / "saved"
    saved.mkdir()
    with pyarrow.OSFile(str(saved / "data.arrow"), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    (saved / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    config = gsm8k.get_config("quick")
    config.unlock()
    config.model.path, config.data.stream = "somewhere", stream
    config.data.update({"train_path": str(tmp_path / "train.parquet"), "heldout_path": str(saved)})
    task = load_task(settings_from_config(config))
    assert list(task.train) == task.heldout == list(task.demonstrations)
    assert task.train[4] == {"prompt": "Question: q4\nAnswer:\n", "answer": "#### 4", "completion": "#### 4"}
