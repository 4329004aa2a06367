"""Rows from every source, errors that name the place, and an order that depends on the step alone."""

import datetime
import json
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempi_jax.llm.columns import DataError
from gempi_jax.llm.datasets import batch_indices, load_rows
from gempi_jax.llm.rows import place_of, replaced
from gempi_jax.llm.streaming import StreamedRows


def write(folder, text, name="data.jsonl"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_rows_of_a_file_in_memory_and_in_a_folder_are_the_same(tmp_path):
    rows = [{"prompt": "a", "extra": [1]}, {"prompt": [{"role": "user", "content": "ü"}], "extra": None}]
    path = write(tmp_path, "\n".join(json.dumps(row) for row in rows))
    write(tmp_path / ".." / tmp_path.name, json.dumps(rows), "other.json")
    assert load_rows(path) == load_rows(str(path)) == load_rows(rows) == load_rows(tmp_path / "other.json") == rows
    assert load_rows(tmp_path) == rows + rows


def test_blank_lines_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path):
    path = write(tmp_path, b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n  \n{"prompt": "b"}\r\n')
    assert load_rows(path) == [{"prompt": "a"}, {"prompt": "b"}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "b"', r"data\.jsonl:3: not JSON .* it starts '\{\"prompt\": \"b\"'"),
        ("[1, 2]", r"data\.jsonl:3: a row has to be an object with named columns, not '\[1, 2\]'"),
        (b'{"prompt": "\xff"}', r"data\.jsonl:3: not UTF-8 .* at byte 12"),
        ('{"prompt": 3}', r"data\.jsonl:3: 'prompt' is 3; it has to be a string, or a list of messages"),
        ('{"prompt": []}', r"data\.jsonl:3: 'prompt' is \[\]"),
        ('{"prompt": [{"role": "user"}]}', r"data\.jsonl:3: 'prompt' is \[\{'role': 'user'\}\]"),
        ('{"prompt": "b", "chosen": null}', r"data\.jsonl:3: 'chosen' is None"),
        ('{"prompt": "b", "messages": "hi"}', r"data\.jsonl:3: 'messages' is 'hi'; it has to be a list of messages"),
        ('{"prompt": "b", "reward": NaN}', r"data\.jsonl:3: 'reward' is nan; it has to be a finite number"),
        ('{"prompt": "b", "reward": "1"}', r"data\.jsonl:3: 'reward' is '1'"),
        (
            '{"prompt": "b", "reward": 1' + 400 * "0" + "}",
            r"data\.jsonl:3: 'reward' is 10+\.\.\.; it has to be a finite",
        ),
        ('{"prompt": "b", "reward": 1e39}', r"data\.jsonl:3: 'reward' is 1e\+39; .* \(a float32\)"),
        (r'{"prompt": "the fox \ud83d"}', r"data\.jsonl:3: 'prompt' holds '\\ud83d' at position 8, half of a"),
        (r'{"prompt": "b", "answer": ["\udc4d!"]}', r"data\.jsonl:3: 'answer' holds '\\udc4d' at position 0"),
        (
            r'{"prompt": [{"role": "user", "content": "\ud83d\ud83d"}]}',
            r"data\.jsonl:3: 'prompt' holds '\\ud83d' at position 0",
        ),
        (r'{"prompt": "b", "\ud83d": 1}', r"data\.jsonl:3: '\\ud83d' holds '\\ud83d' at position 0"),
        ('{"prompt": "b", "x": ' + 200 * "[" + 200 * "]" + "}", r"data\.jsonl:3: 'x' is nested more than 100 levels"),
        ('{"prompts": "b"}', r"data\.jsonl:3: there is no column 'prompt'; there are 'prompts', nearest 'prompts'\."),
        ("{}", r"data\.jsonl:3: there is no column 'prompt'; the row has none at all"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, line, message):
    line = line if isinstance(line, bytes) else line.encode()
    with pytest.raises(DataError, match=message):
        load_rows(write(tmp_path, b'{"prompt": "a"}\n\n' + line))


def test_a_bad_row_in_memory_is_named_by_its_index():
    with pytest.raises(DataError, match=r"row 1 \(from 0\): 'prompt' is 3"):
        load_rows([{"prompt": "a"}, {"prompt": 3}])


def test_columns_are_renamed_and_the_others_kept(tmp_path):
    path = write(tmp_path, json.dumps({"question": "q", "answer": "a", "id": 7}))
    assert load_rows(path, columns={"question": "prompt"}) == [{"prompt": "q", "answer": "a", "id": 7}]
    both = load_rows(path, columns={"question": "prompt", "answer": ["answer", "completion"]})
    assert both == [{"prompt": "q", "answer": "a", "completion": "a", "id": 7}]
    swapped = load_rows(path, columns={"question": "answer", "answer": "prompt"})
    assert swapped == [{"prompt": "a", "answer": "q", "id": 7}]


def test_a_wrong_mapping_is_named(tmp_path):
    path = write(tmp_path, json.dumps({"question": "q", "answer": "a"}))
    with pytest.raises(DataError, match=r"data\.jsonl:1: there is no column 'qestion'.*nearest 'question'.*mapping"):
        load_rows(path, columns={"qestion": "prompt"})
    with pytest.raises(DataError, match="two columns would be called 'answer'"):
        load_rows(path, columns={"question": "answer"}, required=())
    with pytest.raises(DataError, match=r"no column 'completion'.*column mapping: \{'its name': 'completion'\}"):
        load_rows(path, columns={"question": "prompt"}, required=("prompt", "completion"))


def test_rows_may_lack_columns_that_others_have(tmp_path):
    rows = [{"q": "a"}, {"q": "b", "gold": 1}]
    path = write(tmp_path, "\n".join(map(json.dumps, rows)))
    columns = {"q": "prompt", "gold": "answer"}
    expected = [{"prompt": "a"}, {"prompt": "b", "answer": 1}]
    assert load_rows(path, columns=columns) == list(StreamedRows(path, columns=columns)) == expected
    for opened in (load_rows, StreamedRows):
        with pytest.raises(DataError, match=r"data\.jsonl:1: there is no column 'golt'; there are 'q', nearest 'q'"):
            opened(path, columns={"q": "prompt", "golt": "answer"})


def test_a_row_knows_its_place(tmp_path):
    path = write(tmp_path, '\n{"prompt": "a"}\n\n{"prompt": "b", "answer": 1}\n')
    for rows in (load_rows(path), StreamedRows(path)):
        assert [place_of(row, "?") for row in rows] == [f"{path}:2", f"{path}:4"]
    row = load_rows(path)[1]
    assert place_of(replaced(row, {**row, "prompt": "c"}), "?") == place_of(pickle.loads(pickle.dumps(row)), "?")
    assert place_of({**row}, "?") == place_of(replaced({}, {**row}), "?") == "?"
    assert place_of(load_rows(write(tmp_path, '[{"prompt": "a"}]', "a.json"))[0], "?").endswith(
        "a.json, row 0 (from 0)"
    )


def test_characters_beside_the_basic_plane_are_whole():
    rows = [{"prompt": "a 👍 b", "answer": "\U0001f600"}, json.loads(r'{"prompt": "\ud83d\udc4d"}')]
    assert load_rows(rows) == rows


def test_files_that_a_system_put_into_a_folder_are_passed_over(tmp_path):
    write(tmp_path, b"\x00\x05\x16\x07\x00Mac OS X\xff", "._data.jsonl")
    write(tmp_path, "nonsense", ".cache.parquet")
    (tmp_path / "shards.jsonl").mkdir()
    write(tmp_path, '{"prompt": "a"}')
    assert load_rows(tmp_path) == list(StreamedRows(tmp_path)) == [{"prompt": "a"}]
    (tmp_path / "data.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="holds no dataset"):
        load_rows(tmp_path)


def test_conversations_without_prompt_are_told_how_to_get_one():
    with pytest.raises(DataError, match="to_prompt_completion"):
        load_rows([{"messages": [{"role": "user", "content": "hi"}]}])
    assert load_rows([{"messages": [{"role": "user", "content": "hi"}]}], required=("messages",))


@pytest.mark.parametrize("name", ["data.jsonl", "data.json"])
def test_an_empty_dataset_is_an_error(tmp_path, name):
    with pytest.raises(DataError, match=f"{name} is empty"):
        load_rows(write(tmp_path, "\n", name))
    with pytest.raises(DataError, match="the dataset is empty"):
        load_rows([])


def test_paths_that_hold_nothing_usable(tmp_path):
    with pytest.raises(FileNotFoundError, match="no dataset at"):
        load_rows(tmp_path / "nowhere.jsonl")
    with pytest.raises(FileNotFoundError, match="holds no dataset"):
        load_rows(tmp_path)
    with pytest.raises(DataError, match=r"the ending '.csv' is not known"):
        load_rows(write(tmp_path, "a,b", "data.csv"))
    write(tmp_path, "{}", "dataset_dict.json")
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="several splits; give the folder of one: train"):
        load_rows(tmp_path)


def test_a_missing_library_names_the_line_that_installs_it(tmp_path, monkeypatch):
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        load_rows(write(tmp_path, "", "data.parquet"))
    write(tmp_path, '{"_data_files": [{"filename": "data.arrow"}]}', "state.json")
    with pytest.raises(ImportError, match="pip install pyarrow"):
        load_rows(tmp_path)


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"prompt": "a", "reward": 0.5}, {"prompt": "b", "reward": 1.5}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data.parquet")
    assert load_rows(tmp_path / "data.parquet") == rows
    with pytest.raises(DataError, match="not a Parquet file"):
        load_rows(write(tmp_path, "nonsense", "broken.parquet"))


def test_dates_are_python_s_own_or_named(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    day = datetime.date(2020, 2, 29)
    # Microseconds, and nanoseconds that are whole ones: with pandas installed or not, the types are Python's.
    at, unit = datetime.datetime(2020, 1, 2, 3), pyarrow.timestamp("ns")
    times = {
        "at": pyarrow.array([at]),
        "fine": pyarrow.array([at], unit),
        "all": pyarrow.array([[at]], pyarrow.list_(unit)),
    }
    parquet.write_table(pyarrow.table({"prompt": ["a"], "day": [day], **times}), tmp_path / "data.parquet")
    row = load_rows(tmp_path / "data.parquet")[0]
    assert (row["day"], row["at"], row["fine"], row["all"]) == (day, at, at, [at])
    assert {type(x) for x in (row["at"], row["fine"], *row["all"])} == {datetime.datetime}
    for values, kind in [
        (pyarrow.array([0, 1], pyarrow.timestamp("ns")), r"timestamp\[ns\]"),
        (pyarrow.array([0, 10**7], pyarrow.date32()), r"date32\[day\]"),
        (pyarrow.array([0, 10**15], pyarrow.timestamp("s")), r"timestamp\[ms\]"),
    ]:
        parquet.write_table(pyarrow.table({"prompt": ["a", "b"], "day": values}), tmp_path / "odd.parquet")
        message = rf"odd\.parquet, row 1 \(from 0\): the value of column 'day', of type {kind}.*, cannot be read"
        for read in (load_rows, lambda path: list(StreamedRows(path))):
            with pytest.raises(DataError, match=message):
                read(tmp_path / "odd.parquet")


def saved_folder(folder, *parts):
    """What ``Dataset.save_to_disk`` writes: a stream for each part, and state.json."""
    pyarrow = pytest.importorskip("pyarrow")
    folder.mkdir()
    names = [f"data-{i:05d}-of-{len(parts):05d}.arrow" for i in range(len(parts))]
    for name, rows in zip(names, parts, strict=True):
        table = pyarrow.Table.from_pylist(rows)
        with pyarrow.OSFile(str(folder / name), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    write(folder, json.dumps({"_data_files": [{"filename": name} for name in names], "_split": None}), "state.json")
    return folder


def test_a_saved_folder_needs_pyarrow_alone(tmp_path):
    parts = (
        [{"prompt": [{"role": "user", "content": "a"}], "n": 1}],
        [{"prompt": [{"role": "user", "content": "b"}], "n": 2}],
    )
    folder = saved_folder(tmp_path / "saved", *parts)
    assert load_rows(folder) == list(StreamedRows(folder)) == parts[0] + parts[1]
    for state, message in [
        ("{", "does not name the data's files"),
        ("{}", "does not name the data's files"),
        ('{"_data_files": []}', "names no file"),
        ('{"_data_files": [{"filename": "../x.arrow"}]}', r"names \['../x.arrow'\]; it must name files of its own"),
        ('{"_data_files": [{"filename": "x.arrow"}], "_indices_data_files": [1]}', r"flatten_indices\(\)"),
        ('{"_data_files": [{"filename": "x.arrow"}]}', "that state.json names cannot be read"),
    ]:
        write(folder, state, "state.json")
        with pytest.raises(DataError, match=message):
            load_rows(folder)


def test_gsm8k(shared_data):
    rows = load_rows(shared_data / "gsm8k" / "train.jsonl", columns={"question": "prompt"})
    assert len(rows) == 7473
    assert set(rows[0]) == {"prompt", "answer"}


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 2**40))
def test_every_epoch_holds_every_row_once(num_rows, batch_size, seed):
    # num_rows steps of any batch size are batch_size whole epochs.
    steps = [batch_indices(num_rows, batch_size, step, seed) for step in range(num_rows)]
    epochs = np.concatenate(steps).reshape(batch_size, num_rows)
    assert (np.sort(epochs, axis=1) == np.arange(num_rows)).all()
    np.testing.assert_array_equal(batch_indices(num_rows, batch_size, num_rows - 1, seed), steps[-1])


def test_order_differs_between_epochs_and_seeds():
    first, second = batch_indices(50, 50, 0, 0), batch_indices(50, 50, 1, 0)
    assert (first != second).any()
    assert (first != batch_indices(50, 50, 0, 1)).any()
    assert (batch_indices(50, 50, 0, -1) != batch_indices(50, 50, 0, 1)).any()


@pytest.mark.parametrize("arguments", [(0, 1, 0, 0), (1, 0, 0, 0), (1, 1, -1, 0)])
def test_batches_of_nothing(arguments):
    with pytest.raises(ValueError, match="batch_indices: num_rows"):
        batch_indices(*arguments)
