"""Runs in environments from settings to workdir: what they leave and refuse; devices and stops change nothing."""

import dataclasses
import json
import pathlib

import chex
import jax
import numpy as np
import pytest

from gempi_jax.report import write_report
from gempi_jax.rl import EnvironmentFailed
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.controlbuild import build_run
from gempi_jax.runners.controlrun import ControlRun, run
from gempi_jax.training import sharding

# A T-maze of two steps; 2 x 8 environments, so that an update has eight.
TINY = {
    "environment": {"name": "TMaze", "options": {"length": 2}},
    "network": {"torso_widths": (8,), "width": 8, "memory_length": 4, "num_layers": 1},
    "method_args": {"epsilon_alpha": 0.05, "enforced": "line_search_1"},
    "num_environments": 16,
    "unroll_length": 8,
    "updates_per_epoch": 2,
    "num_epochs": 2,
    "env_steps": 4 * 16 * 8,
    "log_every": 2,
    "eval": {"episodes": 4},
    "checkpoint": {"every": 2},
}


def read(workdir: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def start(workdir, report=None, **changes):
    config = TINY | changes
    return run(settings_from_config(config), workdir, config, report=report)


def made(**changes) -> ControlRun:
    settings = settings_from_config(TINY | changes)
    return ControlRun(settings, build_run(settings), sharding.make_mesh(dataclasses.asdict(settings.mesh)))


def learnt(**changes):
    one = made(**changes)
    state, row = one.iterate(one.initial_state())
    return jax.device_get(state), row


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "two"
    start(workdir, report=write_report, num_seeds=2)
    return workdir


def test_rows_say_what_was_taken_and_earned(two_seeds):
    rows = read(two_seeds)
    assert [row["step"] for row in rows] == [0, 2, 4]
    assert [row.get("env_steps") for row in rows] == [None, 256, 512]
    for row in rows[1:]:
        by_seed = [row[f"episode/return/seed_{seed}"] for seed in (0, 1)]
        np.testing.assert_allclose(row["episode/return"], np.mean(by_seed))
        assert row["perf/steps_per_second"] > 0
        assert row["skipped_updates"] == 0
    assert {"heldout/episode/return", "heldout/episode/return/seed_1"} <= rows[0].keys() & rows[-1].keys()


def test_the_report_shows_returns_against_environment_steps(two_seeds):
    page = (two_seeds / "report.html").read_text()
    for text in ("Return of an episode", "environment step", "2 seeds from 0", "TMaze", "Explained variance"):
        assert text in page
    assert "not finished" not in page


def test_a_seed_beside_others_is_what_it_is_alone():
    both, _ = learnt(num_seeds=2)
    alone, _ = learnt(num_seeds=1, seed=1)
    # To rounding: a compiler may order the sums of a loop of one otherwise than those of two.
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[1:], _numbers(both)), _numbers(alone), rtol=1e-5, atol=1e-6)


def _numbers(state):
    """Keys as what they hold."""
    return jax.tree.map(
        lambda x: np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x),
        state,
    )


@pytest.mark.parametrize(("seeds", "core"), [(8, "mlp"), (1, "gtrxl")], ids=["a_seed_each", "environments"])
def test_eight_devices_end_where_one_does(seeds, core):
    # Not Adam: it divides gradients that are all rounding by their own size.
    sgd = {"name": "sgd", "learning_rate": 0.1}
    changes = {"num_seeds": seeds, "core": core, "optimizer": sgd, "log_every": 1, "num_epochs": 1}
    one, row = learnt(**changes)
    eight, other = learnt(**changes, mesh={"data": 8})
    chex.assert_trees_all_close(_numbers(eight), _numbers(one), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(other["episode/return"], row["episode/return"], rtol=1e-6)


def test_pmap_over_seeds_ends_where_one_device_does():
    changes = {"num_seeds": 8, "log_every": 1, "optimizer": {"name": "sgd", "learning_rate": 0.1}}
    one = made(**changes)
    begun = one.initial_state()
    expected, _ = one.iterate(begun)
    state, _ = jax.pmap(lambda state: one.made.iterate(state))(jax.device_get(begun))
    chex.assert_trees_all_close(_numbers(jax.device_get(state)), _numbers(expected), rtol=1e-5, atol=1e-5)


def test_a_run_that_was_cut_short_goes_on_bit_by_bit(two_seeds, tmp_path):
    workdir = tmp_path / "cut"
    config = TINY | {"num_seeds": 2}
    iterate_once = ControlRun.iterate
    calls = []

    class Cut(Exception):
        """The run ends here."""

    def stop_after_one(self, state):
        if calls:
            raise Cut
        calls.append(1)
        return iterate_once(self, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ControlRun, "iterate", stop_after_one)
        with pytest.raises(Cut):
            run(settings_from_config(config), workdir, config)
    run(settings_from_config(config), workdir, config)
    for mine, whole in zip(read(workdir), read(two_seeds), strict=True):
        timed = {name for name in whole if "time" in name or name.startswith("perf/")}
        assert {k: v for k, v in mine.items() if k not in timed} == {k: v for k, v in whole.items() if k not in timed}


NOT_A_NUMBER = """
import jax.numpy as jnp
from gempi_jax.rl import Discrete, episodic

def broken():
    def reset(key):
        return jnp.int32(0), jnp.zeros(2)

    def transition(key, world, action):
        return world, jnp.zeros(2), jnp.float32(jnp.nan), jnp.bool_(True)

    return episodic("broken", observation_shape=(2,), actions=Discrete(2), max_episode_steps=3, reset=reset,
                    transition=transition)
"""


def test_rewards_that_are_no_numbers_end_the_run_by_name(tmp_path):
    (tmp_path / "own.py").write_text(NOT_A_NUMBER)
    environment = {"name": f"{tmp_path}/own.py:broken"}
    with pytest.raises(EnvironmentFailed, match=r"broken: at \d+ steps of seed 0 .* iterations 1 to 2"):
        start(tmp_path / "run", environment=environment)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"environment": {"name": "TMaz"}}, r"config.environment.*'TMaz'.*nearest.*TMaze"),
        ({"environment": {"name": "TMaze", "options": {"lenght": 2}}}, r"config.environment.*lenght.*length"),
        ({"core": "gtxl"}, r"config.core = 'gtxl': did you mean 'gtrxl'"),
        ({"network": {"gate": "gr"}, "core": "gtrxl"}, r"config.network.gate = 'gr'"),
        ({"network": {"torso": "mpl"}}, r"config.network.torso = 'mpl': did you mean 'mlp'"),
        ({"core": "gru", "network": {"width": 0}}, r"config.network: GRU: width is 0"),
        ({"method": "grpo", "method_args": {}}, r"config.method = 'grpo': it compares .* by Q on a replay"),
        ({"method": "mpo", "method_args": {}}, r"config.method = 'mpo': .* give replay.capacity"),
        ({"method": "sft", "method_args": {}}, r"config: This method does not serve control: .* rewards"),
        (
            {"method": "mpo", "method_args": {}, "replay": {"capacity": 2}, "critic": {"popart": 0.1}},
            r"config.critic.popart = 0.1: nothing reads it where method is 'mpo'; leave it at 0.0",
        ),
        (
            {"method": "virel", "method_args": {}, "critic": {"features": "own"}, "entropy_coefficient": 0.1},
            r"config.entropy_coefficient = 0.1: nothing reads it where method is 'virel'",
        ),
        ({"replay": {"batch": 3}}, r"config.replay.batch = 3: .* replay.capacity is 0; leave it at 64"),
        ({"action_values": {"n": 3}}, r"config.action_values = .*: nothing reads it"),
        ({"method": "ppo", "method_args": {"gamma": 0.9}}, r"config.method_args.gamma: .* config.critic"),
        ({"method": "ppo", "method_args": {}}, r"does not serve control: it takes a KL to pi_ref .* set beta to 0"),
        ({"critic": {"features": "mine"}}, r"config.critic.features = 'mine'"),
        ({"critic": {"gamma": 1.5}}, r"config.critic.gamma = 1.5"),
        ({"num_environments": 15}, r"config.num_environments = 15: must be a multiple of updates_per_epoch = 2"),
        ({"mesh": {"data": 3}}, r"config.mesh.data = 3: must divide num_seeds = 1, or the 8 environments"),
        ({"old_period": 3}, r"config: old_period is 3, and V reads the features of pi_theta"),
        (
            {"environment": {"name": "TMaze", "normalize": True}},
            r"config.environment.normalize = True: TMaze is written in JAX",
        ),
        ({"no_such": 1}, r"config.no_such: unknown key"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_refused_by_its_name(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        start(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_bonus_on_entropy_may_fall_to_nothing():
    falling = {"entropy_coefficient": 0.2, "entropy_schedule": "linear", "log_every": 1}
    bonus = build_run(settings_from_config(TINY | falling)).control.entropy
    np.testing.assert_allclose([bonus(step) for step in range(4)], [0.2, 0.4 / 3, 0.2 / 3, 0.0], atol=1e-7)
    assert build_run(settings_from_config(TINY | {"entropy_coefficient": 0.2})).control.entropy is None
    first, _ = learnt(**falling)
    chex.assert_trees_all_close(first.params, learnt(**falling | {"entropy_schedule": "constant"})[0].params, rtol=1e-5)
    for changes, said in (
        ({"entropy_schedule": "linaer"}, r"config.entropy_schedule = 'linaer': did you mean 'linear'"),
        ({"entropy_coefficient": 0.0}, r"config.entropy_schedule = 'linear': nothing reads it where entropy_coeff"),
        ({"entropy_coefficient": -1.0}, r"config.entropy_coefficient = -1.0: give a finite number"),
    ):
        with pytest.raises(ValueError, match=said):
            build_run(settings_from_config(TINY | falling | changes))
