"""Completions that another policy wrote, with rewards: what a method can make of them is said before the run."""

import numpy as np
import pytest

from tests.cases import users

SETTINGS = {
    "source": "scored",
    "num_generations": 1,
    "num_iterations": 1,
    "updates_per_epoch": 1,
    "baseline": "batch_mean",
}


@pytest.fixture
def config(words_model, tmp_path):
    rows = [
        {"prompt": f"The {animal} is", "completion": f" {size}.", "reward": float(size == "big"), "log_prob": -2.5}
        for animal in ("cat", "dog", "cow", "pig")
        for size in ("big", "small")
    ]
    path = users.write_rows(tmp_path / "rows.jsonl", rows)
    config = users.users_config(words_model(), path, path, "rl")
    config.rl.update(SETTINGS)
    # The rows without what they know of their policy.
    bare = [{name: value for name, value in row.items() if name != "log_prob"} for row in rows]
    return config, str(users.write_rows(tmp_path / "bare.jsonl", bare))


def set_method(config, method, **method_args):
    config.rl.method = method
    del config.rl.method_args
    config.rl.method_args = method_args


def test_rows_weigh_by_what_their_own_policy_gave_them(config, tmp_path, read_metrics):
    config, _ = config
    set_method(config, "dar")
    users.start(config, tmp_path / "run")
    row = next(row for row in read_metrics(tmp_path / "run") if "loss" in row)
    assert np.isfinite(row["loss"])
    # pi_t is not the policy that wrote them, and is a price of its own.
    assert row["estep/kl/old"] != 0
    assert row["mstep/kept_mass"] == 1


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        (
            "dar",
            {},
            r"source = 'scored': .*bare\.jsonl:1 has no column 'log_prob', which the anchor 'ref' is weighed aga",
        ),
        ("rl_em", {}, r"config\.rl\.method_args\.scope = 'group': source 'scored' has one completion of each prompt"),
        ("awr", {"baseline": "group_mean"}, r"config\.rl\.baseline = 'group_mean': source 'scored' has one completion"),
        (
            "awr",
            {"top_k": 5},
            r"config\.rl\.top_k = 5: has no effect with method 'awr' on source 'scored', since the com",
        ),
    ],
)
def test_what_rows_do_not_say_is_asked_for(config, method, changes, message, tmp_path):
    config, bare = config
    config.data.train_path = bare
    set_method(config, method)
    config.rl.update(changes)
    with pytest.raises(ValueError, match=message):
        users.start(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
