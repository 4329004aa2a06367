"""A user's function by name, and the trial that stops a run before it starts."""

import numpy as np
import pytest

from gempi_jax.llm.rewards import (
    RewardError,
    RewardSpec,
    exact_match,
    format_reward,
    load_reward,
    preflight,
    story_specs,
)
from gempi_jax.llm.synthetic import arithmetic_rows

ROWS = arithmetic_rows("train", 50, 0)


def test_a_function_from_a_file_and_from_a_package(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import dataclasses\n\n@dataclasses.dataclass\nclass Point:\n    x: float\n\n"
        "def reward(prompts, completions, **_):\n    return [Point(1.0).x] * len(completions)\n"
    )
    assert load_reward(f"{tmp_path / 'mine.py'}:reward")(["p"], ["c"]) == [1.0]
    monkeypatch.chdir(tmp_path)
    assert load_reward("mine.py:reward")(["p"], ["c"]) == [1.0]
    assert load_reward("gempi_jax.llm.rewards:exact_match") is exact_match


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("exact_match", "names no function; write 'package.module:function'"),
        (":f", "names no function"),
        ("nowhere.py:f", r"there is no file .*nowhere\.py"),
        ("no.such.module:f", r"the module 'no\.such\.module' cannot be imported: ModuleNotFoundError"),
        ("gempi_jax.llm.rewards:exact_mach", r"has no function 'exact_mach' \(the nearest is 'exact_match'\)"),
        ("gempi_jax.llm.rewards.signature:GIVEN", "is a tuple, no function"),
    ],
)
def test_what_cannot_be_loaded_is_named(path, message):
    with pytest.raises(RewardError, match=message):
        load_reward(path)


def test_a_file_that_does_not_import_is_named(tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(RewardError, match=r"broken\.py cannot be imported: ZeroDivisionError"):
        load_reward(f"{tmp_path / 'broken.py'}:f")


def test_the_trial_of_a_good_reward():
    report = preflight([RewardSpec("exact", exact_match), RewardSpec("format", format_reward, 0.1)], ROWS)
    assert report.gold == {"exact": 1.0, "format": 1.0}
    assert report.empty == {"exact": 0.0, "format": 0.0}
    assert report.notes == ()


def test_the_answer_is_the_gold_completion_where_there_is_no_other():
    rows = [{"prompt": "q", "answer": "1+1=2 #### 2"}]
    assert preflight([RewardSpec("exact", exact_match)], rows).gold == {"exact": 1.0}
    assert preflight(story_specs(), [{"prompt": "Once"}]).gold is None


def test_a_reward_that_never_tells_gold_from_empty_is_noted():
    (note,) = preflight([RewardSpec("flat", lambda completions, **_: [0.5] * len(completions))], ROWS).notes
    assert note == "reward 'flat' gives gold completions 0.5 and empty ones 0.5: nothing to learn."
    silent = RewardSpec("silent", lambda completions, **_: [None] * len(completions))
    (note,) = preflight([RewardSpec("exact", exact_match), silent], ROWS).notes
    assert note == "reward 'silent' returned None for all rows that were tried."


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda completions, **_: [1.0], "returned 1 values for 32 completions"),
        (lambda completions, **_: [float("nan")] * len(completions), r"an empty completion \(row 0\) is worth nan"),
        (
            lambda completions, **_: [np.log(len(c) + 1e-300) * 1e300 for c in completions],
            r"an empty completion .* -inf",
        ),
        (
            lambda completions, **_: [float("inf") if c else 0.0 for c in completions],
            r"a gold completion .* inf \(mine inf\)",
        ),
        (lambda completions, **_: [c[0] == "x" for c in completions], r"IndexError.*at sample 0 \(''\)"),
        (lambda completions, *, gold, **_: gold, r"needs the column 'gold'"),
    ],
)
def test_the_trial_stops_a_broken_reward(function, message):
    with pytest.raises(RewardError, match=message):
        preflight([RewardSpec("mine", function)], ROWS)
