"""Rewards that users bring: they fail, end the process, change what they are given, and start processes."""

import json
import math

import numpy as np
import pytest

from gempi_jax.llm.rewards import RewardError, RewardSpec, compute_rewards, load_reward
from gempi_jax.training.loop import TooManySkippedUpdates
from tests.cases import users

ROWS = [{"prompt": f"The {a} is", "completion": f" {b}."} for a in ("cat", "dog") for b in ("big", "red")]


def with_reward(tmp_path, words_model, source, *phases, **changes):
    """A config whose only reward is the function ``f`` of a file."""
    (tmp_path / "own.py").write_text(source)
    rows = users.write_rows(tmp_path / "rows.jsonl", ROWS)
    heldout = users.write_rows(tmp_path / "heldout.jsonl", [{"prompt": "The cow is", "completion": " big."}] * 4)
    config = users.users_config(words_model(), rows, heldout, *phases)
    config.rewards.no_repetition = 0.0
    config.reward_functions = (f"{tmp_path / 'own.py'}:f",)
    config.rl.update({"num_iterations": 4, "max_completion_length": 4, **changes})
    return config


def test_a_reward_that_fails_now_and_then_costs_an_iteration_and_not_the_run(
    words_model, tmp_path, read_metrics, caplog
):
    # Gold answers pass; of sixteen sampled completions the second batch fails at its third.
    source = """
calls = 0
def f(prompts, completions, **columns):
    global calls
    if len(completions) == 16:
        calls += 1
        if calls == 2:
            exit(0)
    return [float(len(c)) for c in completions]
"""
    users.start(with_reward(tmp_path, words_model, source, "rl"), tmp_path / "run")
    rows = read_metrics(tmp_path / "run")[1:]
    assert [row["reward_failed"] for row in rows] == [0, 1, 0, 0]
    assert rows[-1]["skipped_updates"] > 0
    assert "raised SystemExit: 0 (line 8), for the 16 samples together" in caplog.text


def test_a_reward_that_always_fails_ends_the_run_with_its_name(words_model, tmp_path, caplog):
    source = "def f(prompts, completions, **columns):\n    return [1 / (len(completions) < 16) for _ in completions]\n"
    config = with_reward(tmp_path, words_model, source, "rl")
    config.max_skips_in_a_row = 2
    with pytest.raises(TooManySkippedUpdates, match=r"max_skips_in_a_row = 2\. reward .*f raised ZeroDivisionError"):
        users.start(config, tmp_path / "run")
    assert "f raised ZeroDivisionError: division by zero (line 2)" in caplog.text


def test_a_phase_that_made_no_update_is_no_finished_run(words_model, tmp_path):
    # Fewer iterations than may be skipped in a row, and each of them is.
    source = """def f(prompts, completions, **columns):
    return [10**400 if len(completions) == 16 else 1.0 for _ in completions]
"""
    with pytest.raises(TooManySkippedUpdates, match=r"step 2: 2 iterations .* these were all iterations of the phase"):
        users.start(with_reward(tmp_path, words_model, source, "rl", num_iterations=2), tmp_path / "run")
    assert not (tmp_path / "run/export").exists()


def test_a_reward_that_ends_the_process_on_held_out_completions_is_an_error_before_training(words_model, tmp_path):
    source = """import argparse
def f(prompts, completions, **columns):
    for text in completions:
        if text not in ("", " big.", " red."):
            argparse.ArgumentParser().parse_args(["--none"])
    return [1.0] * len(completions)
"""
    with pytest.raises(RewardError, match=r":f raised SystemExit: 2 \(line 5\), at sample 0 .*heldout\.jsonl:1"):
        users.start(with_reward(tmp_path, words_model, source, "rl"), tmp_path / "run")


def test_a_reward_reads_no_flags_of_ours(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train", "--config=x"])
    source = """import argparse
argparse.ArgumentParser().parse_args()
def f(completions, **columns):
    argparse.ArgumentParser().parse_args()
    return [1.0]
"""
    (tmp_path / "parses.py").write_text(source)
    reward = load_reward(f"{tmp_path / 'parses.py'}:f")
    assert compute_rewards([RewardSpec("f", reward)], ["p"], ["a"], {}).total.tolist() == [1.0]
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(RewardError, match=r"exits\.py cannot be imported: SystemExit: 0 \(line 2\)"):
        load_reward(f"{tmp_path / 'exits.py'}:f")


def test_whole_numbers_beyond_floats_are_infinite():
    spec = RewardSpec("distance", lambda completions, **_: [-(9**999), 10**400, 1][: len(completions)], 1.0)
    result = compute_rewards([spec], ["p"] * 3, ["a", "b", "c"], {})
    assert result.total.tolist() == [-math.inf, math.inf, 1.0]
    assert result.finite.tolist() == [False, False, True]


def test_what_a_reward_changes_nobody_else_sees():
    def adds(prompts, completions, tags, **_):
        for prompt, tag in zip(prompts, tags, strict=True):
            prompt.append({"role": "assistant", "content": "x"})
            tag.clear()
        return [float(len(prompt)) for prompt in prompts]

    prompt = [{"role": "user", "content": "a"}]
    tags = [["t"]] * 2
    # Both samples share the prompt's row.
    specs = [RewardSpec("one", adds, 1.0), RewardSpec("two", adds, 1.0)]
    result = compute_rewards(specs, [prompt, prompt], ["b", "c"], {"tags": tags})
    assert (prompt, tags) == ([{"role": "user", "content": "a"}], [["t"], ["t"]])
    np.testing.assert_array_equal(result.total, [4.0, 4.0])


def test_a_file_may_grade_in_processes_of_its_own(tmp_path):
    source = """import concurrent.futures, multiprocessing
def grade(text): return float(len(text))
def f(prompts, completions, **columns):
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(grade, completions))
"""
    # The first name is free; the second is that of a module which every process has.
    for name in ("pools_of_mine", "json"):
        (tmp_path / f"{name}.py").write_text(source)
        reward = load_reward(f"{tmp_path / name}.py:f")
        assert compute_rewards([RewardSpec("f", reward, 1.0)], ["a"], ["abc"], {}).total.tolist() == [3.0]
    assert json.loads("1") == 1
