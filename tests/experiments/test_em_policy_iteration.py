"""The command on tiny processes: what it writes, and what it says."""

import json

import numpy as np
import pytest

from experiments.em_policy_iteration import main, table

TINY = ["--seeds=2", "--states=3", "--actions=2", "--discount=0.5", "--iterations=20", "--steps=400"]


def test_it_writes_a_table_curves_and_a_picture(tmp_path, capsys):
    output = tmp_path / "new" / "folder"
    assert main([f"--output={output}", *TINY, "--only=old_0.1,beta_0.1"]) == 0
    document = json.loads((output / "results.json").read_text())
    assert document["settings"]["seeds"] == 2
    found = document["results"]
    assert list(found) == ["old_0.1", "beta_0.1"]
    for of_case, number, updates in ((found["old_0.1"], 21, 20), (found["beta_0.1"], 301, 300)):
        assert len(of_case["updates"]) == len(of_case["gap_mean"]) == number
        assert of_case["updates"][-1] == updates
        np.testing.assert_allclose(of_case["gap_mean"][0], 1.0, rtol=1e-4)
        assert of_case["gap_mean"][-1] < 0.1
    assert found["old_0.1"]["optimal"] == [True, True]
    assert found["old_0.1"]["least_gain"] > -1e-5
    assert (output / "gaps.svg").read_text().startswith("<?xml")
    written = (output / "table.md").read_text()
    assert written in capsys.readouterr().out
    assert len(written.splitlines()) == 4


def test_a_table_by_hand():
    # Two of three seeds reach 1 %, after 4 and 8 updates.
    ends = {"final_gaps": [0.25, 0.0, 0.05], "optimal": [False, True, True], "temperature_mean": [1.0, 0.5]}
    last = table({"mine": {"reached": [None, 4, 8], "least_gain": -0.5, **ends}}).splitlines()[-1]
    assert last == "| mine | 6 (4 to 8) | 2 of 3 | 1.0e-01 | 2.5e-01 | 2 of 3 | 5.0e-01 | -5.0e-01 |"
    never = table({"mine": {"reached": [None] * 3, "least_gain": 0.0, **ends}})
    assert "| mine | - | 0 of 3 |" in never


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only=old_2"], "there is no case ['old_2']; choose from ['old_0.01'"),
        (["--seeds=0"], "numbers are at least 1"),
        (["--discount=1"], "--discount is 1.0"),
    ],
)
def test_what_it_cannot_run_is_said(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([f"--output={tmp_path}", *arguments])
    assert message in capsys.readouterr().err
