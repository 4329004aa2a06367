"""Commands on runs in environments: episodes played and drawn, rows of results, the study of divergence."""

import json

import pytest
from PIL import Image

from experiments import divergence, evaluate, results
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.controlrun import run

TINY = {
    "environment": {"name": "TMaze", "options": {"length": 2}},
    "core": "mlp",
    "network": {"torso_widths": (8,), "width": 8},
    "method_args": {"enforced": "line_search_1"},
    "num_environments": 4,
    "unroll_length": 8,
    "updates_per_epoch": 1,
    "num_epochs": 1,
    "env_steps": 128,
    "log_every": 2,
    "num_seeds": 2,
    "eval": {"episodes": 2},
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "maze"
    run(settings_from_config(TINY), folder, TINY)
    return folder


def test_episodes_of_every_seed_are_played_and_one_is_drawn(workdir, tmp_path, capsys):
    picture = tmp_path / "maze.gif"
    arguments = [str(workdir), "--episodes=3", f"--gif={picture}", "--run-seed=1"]
    assert evaluate.main(arguments) == 0
    said = capsys.readouterr().out
    assert "mean of 3 episodes" in said
    steps = int(said.rsplit("an episode of ", 1)[1].split()[0])
    with Image.open(picture) as image:
        # From the first state to the one before the last step; pictures that are alike become one that lasts longer.
        assert 1 <= image.n_frames <= steps


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run-seed=2"], "--run-seed=2: the run has seeds 0 to 1"),
        (["--episodes=0"], "--episodes=0: give at least 1"),
    ],
)
def test_what_cannot_be_played_is_said(workdir, arguments, message, capsys):
    assert evaluate.main([str(workdir), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_run_is_said(tmp_path, capsys):
    assert evaluate.main([str(tmp_path)]) == 2
    assert "holds no config.json" in capsys.readouterr().err
    assert results.main([str(tmp_path)]) == 2
    assert "holds no metrics.jsonl" in capsys.readouterr().err


def test_rows_of_results_have_seeds_and_when_a_target_was_passed(workdir, capsys):
    assert results.main([str(workdir), "--target=-100"]) == 0
    header, _, row = capsys.readouterr().out.splitlines()[:3]
    assert "all above -100 at" in header
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    # Two seeds, 4 iterations of 32 steps; rows of two iterations, in the first of which some episode ends.
    assert cells[:4] == ["maze", "mlp", "2", "128"]
    assert cells[7] in ("64", "128")


def test_divergence_is_counted_and_drawn(tmp_path, monkeypatch, capsys):
    config = tmp_path / "tiny.py"
    config.write_text(f"def get_config():\n    return {TINY!r}\n")
    arguments = ["divergence", f"--output={tmp_path}/out", f"--config={config}", "--cores", "LSTM", "--draws=2"]
    monkeypatch.setattr("sys.argv", [*arguments, "--steps=64", "--low=1e-3", "--high=1e30"])
    assert divergence.main() == 0
    found = json.loads((tmp_path / "out/divergence.json").read_text())
    assert len(found["rates"]) == len(found["cores"]["LSTM"]["final"]) == 2
    # A rate of 1e10 and more leaves no finite number behind.
    assert max(found["rates"]) > 1e10
    assert max(found["cores"]["LSTM"]["skipped"]) > 0
    assert "diverged" in capsys.readouterr().out
    assert (tmp_path / "out/divergence.svg").stat().st_size > 1000
