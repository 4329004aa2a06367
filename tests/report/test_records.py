import numpy as np
import pytest

from gempi_jax.report.records import Phase, read_run


def test_a_finished_run(make_workdir):
    run = read_run(make_workdir())

    assert run.phases == (Phase("sft", 0, 20), Phase("rl", 21, 50))
    assert run.problems == ()
    steps, values = run.series("heldout/reward")
    assert steps.tolist() == [0, 5, 10, 15, 20, 30, 40, 50]
    np.testing.assert_allclose(values, [0, 0.0625, 0.125, 0.1875, 0.25, 0.35, 0.45, 0.55])
    assert run.series("heldout/reward", "rl").steps.tolist() == [30, 40, 50]
    assert len(run.series("no such metric").steps) == 0
    assert "phase" not in run.names()
    assert "step" not in run.names()


def test_lines_that_are_no_rows_are_left_out_and_named(make_workdir):
    folder = make_workdir()
    lines = (folder / "metrics.jsonl").read_bytes().split(b"\n")
    lines[3] = b"\xff\xfe not JSON"
    lines[5] = b'{"phase": "sft"}'
    lines[7] = b"[1, 2]"
    (folder / "metrics.jsonl").write_bytes(b"\n".join(lines) + b'{"step": 51, "phase": "rl", "rew')
    (folder / "config.json").write_text("{")

    run = read_run(folder)

    # Line numbers as an editor counts them; the last row was cut off by a kill.
    assert run.problems[0] == "metrics.jsonl: 4 lines are no row and left out (line 4, 6, 8, 52)."
    assert "config.json is not valid JSON" in run.problems[1]
    assert run.phases[-1] == Phase("rl", 21, 50)


def test_a_step_that_was_computed_again_counts_once_and_as_computed_last(make_workdir):
    rows = [
        {"step": 1, "phase": "rl", "reward": 0.1, "loss": 1.0},
        {"step": 2, "phase": "rl", "reward": 0.2},
        {"step": 1, "phase": "rl", "reward": 0.3},
    ]

    run = read_run(make_workdir(rows=rows))

    assert run.series("reward").values.tolist() == [0.3, 0.2]
    assert run.series("loss").values.tolist() == [1.0]


@pytest.mark.parametrize("value", [None, "NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_lacks_are_not_in_a_series(make_workdir, value):
    run = read_run(make_workdir(rows=[{"step": 1, "loss": 1.0}, {"step": 2, "loss": value}, {"step": 3, "loss": 2.0}]))

    assert run.series("loss").steps.tolist() == [1, 3]
    assert not np.isfinite(run.rows[1]["loss"])


def test_a_folder_without_metrics_says_what_to_give(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no metrics\.jsonl.*give the workdir"):
        read_run(tmp_path)
