"""Every completion gets the same reward: the policy stays where it is, and the run says why."""

import jax
import numpy as np
import pytest

from gempi_jax.llm import load_pretrained
from gempi_jax.report.checks import findings
from gempi_jax.report.records import read_run
from tests.cases import users

REWARD = "def same(completions, **_):\n    return [0.1] * len(completions)\n"


@pytest.mark.parametrize(
    ("method", "arguments", "changes"),
    [
        ("vmpo", {}, {}),
        ("dar", {}, {"baseline": "zero", "normalize_advantages": True}),
        # V(x) learns that 0.1 is what there is to expect, and its errors until then move no policy.
        ("vmpo", {"temperature": "solved"}, {"baseline": "value", "old_period": 2}),
    ],
    ids=["vmpo", "dar", "value"],
)
def test_a_policy_without_a_signal_stays(method, arguments, changes, words_model, tmp_path, read_metrics):
    rows = users.write_rows(tmp_path / "rows.jsonl", [{"prompt": f"The {a}"} for a in ("cat", "dog", "cow", "pig")])
    (tmp_path / "same.py").write_text(REWARD)
    model = words_model()
    config = users.users_config(model, rows, rows, "rl")
    config.rewards.no_repetition = 0.0
    config.reward_functions = (f"{tmp_path / 'same.py'}:same",)
    config.rl.update({"method": method, "num_generations": 6, **changes})
    del config.rl.method_args
    config.rl.method_args = arguments
    export = users.start(config, tmp_path / "run")
    before, after = (load_pretrained(path).params for path in (model, export))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    rows = [row for row in read_metrics(tmp_path / "run") if "loss" in row]
    assert [row["estep/flat_batch"] for row in rows] == [1.0, 1.0]
    assert [row["skipped_updates"] for row in rows] == [0.0, 0.0]
    if changes.get("baseline") == "value":
        assert rows[0]["value/loss"] != rows[1]["value/loss"]
    assert any(
        "In 2 of 2 steps all rewards that are compared were equal" in text
        for text in findings(read_run(tmp_path / "run"))
    )
