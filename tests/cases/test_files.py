"""What is wrong with files is said before a run, by file and row, wherever in them it stands."""

import logging

import pytest

from gempi_jax.llm.survey import survey
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.rowchecks import say_changed
from gempi_jax.runners.tasks import load_task
from tests.cases import users

ANIMALS = ("cat", "dog", "cow", "pig")
TRAIN = [{"prompt": f"The {name} said", "completion": "Hello!"} for name in (*ANIMALS, "fox", "owl", "bee")]
HELDOUT = [{"prompt": f"The big {name} said", "completion": "Hello!"} for name in ANIMALS]
SUMS = [{"prompt": f"{n} and {n} is", "answer": str(2 * n)} for n in range(64)]


@pytest.fixture
def config(words_model, tmp_path):
    """Makes a user's config for rows."""

    def make(train, heldout, *phases):
        paths = (users.write_rows(tmp_path / f"{n}.jsonl", rows) for n, rows in (("train", train), ("test", heldout)))
        return users.users_config(words_model(), *paths, *phases)

    return make


def refused(config, tmp_path, message):
    workdir = tmp_path / "run"
    with pytest.raises((ValueError, OSError), match=message):
        users.start(config, workdir)
    assert not workdir.exists()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("column", ["prompt", "completion"])
def test_half_an_emoji(config, tmp_path, column, stream):
    rows = [dict(row) for row in TRAIN]
    rows[5][column] += " \ud83d"
    config = config(rows, HELDOUT)
    config.data.stream = stream
    refused(config, tmp_path, rf"^\S*train\.jsonl:6: '{column}' holds '\\ud83d' at position \d+, half of a character")


def test_tasks_of_two_kinds_have_all_columns_in_every_call(config, tmp_path):
    sums = [{"prompt": f"{n} and {n} is", "answer": str(2 * n)} for n in range(4)]
    stories = [{"prompt": f"Write about the {name}.", "must_have": name} for name in ANIMALS]
    rows = [row for pair in zip(sums, stories, strict=True) for row in pair]
    for stream in (False, True):
        made = config(rows, rows[::-1])
        made.data.stream = stream
        task = load_task(settings_from_config(made))
        for part in (task.train, task.heldout):
            assert all(row.keys() == {"prompt", "answer", "must_have"} for row in part)
        assert task.train[1] == {**stories[0], "answer": None}
    refuse = "def graded(completions, answer, must_have):\n    raise ValueError(sorted(map(str, answer + must_have)))\n"
    (tmp_path / "own.py").write_text(refuse)
    made.reward_functions = (f"{tmp_path}/own.py:graded",)
    refused(made, tmp_path, "graded raised ValueError: .*'None'")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("missing", [{"answer": None}, {}])
def test_a_null_answer_late_in_the_training_file(config, tmp_path, missing, stream):
    rows = [dict(row) for row in SUMS]
    rows[40] = {"prompt": rows[40]["prompt"], **missing}
    config = config(rows, SUMS[:8], "rl")
    config.data.stream = stream
    config.rewards = {"exact_match": 1.0}
    refused(config, tmp_path, r"^\S*train\.jsonl:41: .*exact_match returned None.* Null in this row: 'answer'\.$")
    # Demonstrations are not judged, and need no answer.
    config.phases = ("sft",)
    refused(config, tmp_path, r"the data have no rows with a completion")


def test_a_reward_that_fails_on_another_type_of_answer(config, tmp_path):
    rows = [dict(row) for row in SUMS]
    rows[50]["answer"] = 100
    (tmp_path / "own.py").write_text(
        "def strip(completions, answer):\n    return [float(a.strip() in c) for a, c in zip(answer, completions)]\n"
    )
    config = config(rows, SUMS[:8], "rl")
    config.reward_functions = (f"{tmp_path}/own.py:strip",)
    refused(config, tmp_path, r"^\S*train\.jsonl:51: .*strip raised AttributeError: 'int' object has no attribute 'str")


def test_a_null_answer_late_among_the_heldout_rows(config, tmp_path):
    config = config(TRAIN, [*SUMS, {"prompt": "64 and 64 is", "answer": None}])
    config.rewards = {"exact_match": 1.0}
    refused(config, tmp_path, r"^\S*test\.jsonl:65: .*exact_match returned None")


def test_heldout_prompts_beyond_the_model_s_positions(config, tmp_path):
    long = [{"prompt": " ".join(["The cat said"] * 60) + row["prompt"]} for row in HELDOUT]
    config = config(TRAIN, long)
    config.data.max_prompt_length = 1000
    message = (
        r"config\.sft\.max_completion_length = 96: with held-out prompts of up to \d{3} tokens that is more than the"
    )
    refused(config, tmp_path, message + r" model's 256 positions")


def test_a_folder_that_holds_the_heldout_file(config, tmp_path):
    config = config(TRAIN, HELDOUT)
    heldout = config.data.heldout_path
    config.data.train_path = str(tmp_path)
    message = r"heldout_path = .*test\.jsonl': \S*test\.jsonl is also read by config\.data\.train_path = "
    refused(config, tmp_path, message)
    config.data.train_path, config.data.heldout_path = heldout, str(tmp_path)
    refused(config, tmp_path, message.replace("test\\.jsonl'", "'"))
    # A link leads to the same file.
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "rows.jsonl").symlink_to(heldout)
    config.data.train_path, config.data.heldout_path = heldout, str(tmp_path / "linked")
    users.write_rows(tmp_path / "linked" / "more.jsonl", TRAIN)
    refused(config, tmp_path, r"rows\.jsonl is also read by")


def test_heldout_rows_that_are_trained_on_are_said(config, caplog):
    made = config([*TRAIN, {**HELDOUT[2], "id": 7}], HELDOUT)
    with caplog.at_level(logging.WARNING):
        load_task(settings_from_config(made))
    assert "1 of the 4 held-out prompts are also trained on (first " in caplog.text
    assert "test.jsonl:3)" in caplog.text
    made.data.heldout_path = made.data.train_path
    load_task(settings_from_config(made))
    assert "8 of the 8 held-out prompts are also trained on" in caplog.text
    caplog.clear()
    made = config([*TRAIN, HELDOUT[2]], HELDOUT)
    made.data.num_train = made.data.num_demonstrations = 7
    load_task(settings_from_config(made))
    assert "also trained on" not in caplog.text


def test_hidden_files_are_passed_over(config, tmp_path):
    config = config(TRAIN, HELDOUT)
    (tmp_path / "data").mkdir()
    (tmp_path / "train.jsonl").rename(tmp_path / "data" / "train.jsonl")
    (tmp_path / "data" / "._train.jsonl").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X\xff\xfe")
    config.data.train_path = str(tmp_path / "data")
    assert len(load_task(settings_from_config(config)).demonstrations) == len(TRAIN)


def test_rows_that_changed_before_a_resume_are_said(config, tmp_path, caplog):
    def resumed(rows):
        caplog.clear()
        users.write_rows(tmp_path / "train.jsonl", rows)
        with caplog.at_level(logging.WARNING):
            users.start(made, tmp_path / "run")
        return [record.getMessage() for record in caplog.records if "this run began with" in record.getMessage()]

    made = config(TRAIN, HELDOUT)
    made.sft.num_iterations = 1
    assert resumed(TRAIN) == []
    (said,) = resumed(TRAIN[1:])
    assert said.startswith(
        "The demonstrations (6 now, 7 then) and the training rows (6 now, 7 then) are not those that"
    )
    # The run keeps what it began with.
    assert resumed(TRAIN) == []


def test_other_contents_in_as_many_rows_are_said_and_old_checkpoints_have_nothing_to_compare(caplog):
    now, then = ({"heldout": survey(rows).fingerprint()} for rows in (HELDOUT, HELDOUT[::-1]))
    say_changed(None, now)
    say_changed({}, now)
    say_changed(now, now)
    assert not caplog.text
    say_changed(then, now)
    assert "The held-out rows (4 as then, with other contents or in another order) are not those that" in caplog.text
