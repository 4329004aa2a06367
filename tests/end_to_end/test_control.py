"""Runs in environments as users start them: every config, killed processes, pictures, what is said of a mistake."""

import importlib
import json
import pathlib
import random

import jax
import numpy as np
import pytest

from experiments.evaluate import load
from gempi_jax.report import write_report
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.controlrun import run

pytestmark = pytest.mark.slow

CONFIGS = sorted(path.stem for path in (pathlib.Path(__file__).parents[2] / "configs/rl").glob("*.py"))
NEEDS = {"cartpole": "gymnax", "memory_chain": "gymnax", "breakout": "gymnax", "pendulum": "gymnax"}
NEEDS |= {"minigrid_memory": "xminigrid", "half_cheetah": "envpool"}

# A T-maze, which needs no package beside this one; a GTrXL, so that memories are in the checkpoint.
TINY = (
    "--config.environment.options.length=3",
    "--config.network.width=8",
    "--config.network.memory_length=4",
    "--config.unroll_length=8",
    "--config.num_seeds=2",
    "--config.log_every=1",
    "--config.checkpoint.every=1",
    "--config.eval.episodes=0",
    "--config.network.num_layers=1",
)
KILLS = 10
ITERATIONS = 40


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_runs_to_its_end(name, tmp_path):
    pytest.importorskip(NEEDS.get(name, "gempi_jax"))
    config = importlib.import_module(f"configs.rl.{name}").get_config("quick")
    # What is long here is compiling: greedy episodes are played by memories in one of the configs alone.
    config.update({"num_epochs": 1, "log_every": 4})
    if config.core != "mlp" and name != "memory_chain":
        config.eval.episodes = 0
    run(settings_from_config(config), tmp_path / "run", config.to_dict(), report=write_report)
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 4
    assert last["skipped_updates"] == 0
    assert np.isfinite([value for key, value in last.items() if key != "phase"]).all()
    assert (tmp_path / "run/report.html").exists()


def test_a_run_killed_ten_times_at_random_is_the_run_that_nothing_disturbed(runs, rows, tmp_path):
    config = "configs/rl/t_maze.py:quick"
    options = (*TINY, f"--config.env_steps={ITERATIONS * 16 * 8}")
    code, output = runs.run(config, tmp_path / "whole", *options)
    assert code == 0, output
    draw = random.Random(0)
    for kill in range(KILLS):
        process = runs.start(config, tmp_path / "killed", *options)
        before = len(rows(tmp_path / "killed"))
        further = draw.randint(1, ITERATIONS // KILLS - 1)
        runs.stop_when(process, lambda n=before + further: len(rows(tmp_path / "killed")) >= n, runs.SIGKILL)
        process.wait()
        process.stdout.close()
        assert process.returncode == -runs.SIGKILL, kill
    code, output = runs.run(config, tmp_path / "killed", *options)
    assert code == 0, output
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    one, other = (jax.tree_util.tree_leaves_with_path(load(tmp_path / name)[2]) for name in ("killed", "whole"))
    names = [jax.tree_util.keystr(path) for path, _ in one]
    assert any(".world.memories" in name for name in names)
    for name, (_, mine), (_, whole) in zip(names, one, other, strict=True):
        if jax.dtypes.issubdtype(mine.dtype, jax.dtypes.prng_key):
            mine, whole = jax.random.key_data(mine), jax.random.key_data(whole)
        np.testing.assert_array_equal(mine, whole, err_msg=name)


def test_sigterm_saves_and_the_run_goes_on(runs, rows, tmp_path):
    config, options = "configs/rl/t_maze.py:quick", (*TINY, f"--config.env_steps={ITERATIONS * 16 * 8}")
    process = runs.start(config, tmp_path / "run", *options)
    runs.stop_when(process, lambda: len(rows(tmp_path / "run")) >= 3, runs.SIGTERM)
    code, output = runs.finish(process)
    assert (code, "the same command goes on" in output) == (75, True), output
    assert len(rows(tmp_path / "run")) < ITERATIONS
    code, output = runs.run(config, tmp_path / "run", *options)
    assert code == 0, output
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(ITERATIONS + 1))
