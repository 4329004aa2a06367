"""Runs in environments on the host through the same config path: rows, a stop and another start, what is refused."""

import json

import numpy as np
import pytest

from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.controlrun import run
from gempi_jax.runners.hostrun import HostRun

pytest.importorskip("gymnasium")

TINY = {
    "environment": {"name": "gymnasium/CartPole-v1", "normalize": True},
    "network": {"torso_widths": (8,), "width": 8},
    "method_args": {"enforced": "line_search_1"},
    "num_environments": 2,
    "unroll_length": 16,
    "updates_per_epoch": 1,
    "num_epochs": 1,
    "env_steps": 4 * 32,
    "log_every": 2,
    "checkpoint": {"every": 2},
}


def test_a_run_that_was_cut_short_goes_on_with_what_it_has_learnt(tmp_path):
    iterate_once, calls = HostRun.iterate, []

    class Cut(Exception):
        """The run ends here."""

    def stop_after_one(self, state):
        if calls:
            raise Cut
        calls.append(1)
        return iterate_once(self, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HostRun, "iterate", stop_after_one)
        with pytest.raises(Cut):
            run(settings_from_config(TINY), tmp_path / "run", TINY)
    run(settings_from_config(TINY), tmp_path / "run", TINY)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 2, 4]
    assert [row["env_steps"] for row in rows[1:]] == [64, 128]
    assert all(np.isfinite(row["loss"]) for row in rows[1:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_seeds": 2}, r"config.num_seeds = 2: gymnasium/CartPole-v1 steps on the host, one run at a time"),
        ({"environment": {"name": "gymnasium/CartPol-v1"}}, r"config.environment.*CartPol-v1"),
        (
            {"environment": {"name": "gymnasium/CartPole-v1", "options": {"num_envs": 3}}},
            r"has 3 instances, and num_environments is 2",
        ),
        ({"method": "mpo", "method_args": {}, "replay": {"capacity": 4}}, "host"),
        (
            {"method": "virel", "method_args": {}, "critic": {"features": "own"}},
            "config: method is 'virel', and gymnasium/CartPole-v1 steps on the host",
        ),
    ],
    ids=["seeds", "name", "instances", "replay", "virel"],
)
def test_what_the_host_does_not_serve_is_refused(changes, message, tmp_path):
    config = TINY | changes
    with pytest.raises(ValueError, match=message):
        run(settings_from_config(config), tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
