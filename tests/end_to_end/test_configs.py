"""Whole runs inside this process: every config, every mesh, and what is not finite."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from configs.llm import arithmetic, gsm8k, stories
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.llm import run
from gempi_jax.training.loop import TooManySkippedUpdates

pytestmark = pytest.mark.slow


def start(config, workdir):
    return run(settings_from_config(config), workdir, config.to_dict())


def table(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_eight_devices_end_where_one_does(tmp_path):
    config = arithmetic.get_config("vmpo,quick")
    # Not Adam: it divides gradients that are all rounding by their own size, and makes them as large as any other.
    for phase in (config.sft, config.rl):
        phase.optimizer.update({"name": "sgd", "learning_rate": 0.1})
    one_device = tmp_path / "one"
    start(config, one_device)
    config.mesh.update({"data": 4, "fsdp": 2})
    export = start(config, tmp_path / "eight")
    one, eight = load_file(one_device / "export/model.safetensors"), load_file(export / "model.safetensors")
    assert one.keys() == eight.keys()
    for name in one:
        np.testing.assert_allclose(eight[name], one[name], atol=2e-6, err_msg=name)
    exact = {"step", "phase", "reward", "num_tokens", "completions/mean_length", "heldout/reward"}
    for row, other in zip(table(one_device), table(tmp_path / "eight"), strict=True):
        assert {k: v for k, v in row.items() if k in exact} == {k: v for k, v in other.items() if k in exact}
        # A KL next to 0 is a sum of differences of log-probabilities, each with about 1e-7 of rounding: 1e-7 nats,
        # which are 2.5e-5 of a budget of 0.004.
        absolute = {"loss": 1e-6, "mstep/kl_over_budget": 1e-4, "estep/temperature": 1e-6, "estep/ess": 1e-6}
        for name in absolute.keys() & row.keys():
            np.testing.assert_allclose(other[name], row[name], rtol=2e-3, atol=absolute[name], err_msg=name)


@pytest.mark.parametrize("method", ["sft", "awr", "dar", "rl_em"])
def test_the_other_methods_take_the_same_path(method, tmp_path):
    config = arithmetic.get_config(f"{method},quick")
    config.sft.num_iterations = 1
    config.rl.num_iterations = 2
    config.rl.optimizer.warmup_steps = 0
    config.sft.optimizer.warmup_steps = 0
    assert (start(config, tmp_path / "run") / "config.json").exists()
    last = table(tmp_path / "run")[-1]
    assert np.isfinite(last["loss"])
    assert last["skipped_updates"] == 0
    assert ("kl" in last) == (method in ("dar", "rl_em"))


@pytest.mark.parametrize(
    "changes",
    [
        {"baseline": "value", "normalize_advantages": True},
        {
            **{"old_period": 2, "trust_region_dropout": "deterministic", "num_epochs": 2, "num_microbatches": 2},
            "method_args": {"enforced": "lagrangian"},
        },
        {
            **{"old_ema_decay": 0.5, "top_k": 20, "top_p": 0.9, "temperature": 0.7, "m_step_fraction": 0.5},
            "method_args": {"divergence": "alpha_0.5"},
        },
        {
            **{
                "old_log_probs": "sampler",
                "m_step_fraction": 1.0,
                "duals": {"num_temperature_steps": 1, "temperature_learning_rate": 0.1},
            },
            "method_args": {
                **{"temperature": "solved", "scope": "group", "top_k_fraction": 1.0},
                **{"divergence": "jensen_shannon", "epsilon_eta": 0.05},
            },
        },
    ],
)
def test_what_a_phase_can_be_set_to(changes, tmp_path):
    config = arithmetic.get_config("vmpo,quick")
    config.model.dropout = 0.1
    config.sft.num_iterations = 1
    config.sft.optimizer.warmup_steps = 0
    config.rl.num_iterations = 2
    config.rl.update(changes)
    start(config, tmp_path / "run")
    rows = table(tmp_path / "run")
    assert all(np.isfinite(row["loss"]) for row in rows[1:])
    if config.rl.old_log_probs == "scored":
        assert rows[-1]["sampler_gap"] < 1e-4
    else:
        assert "sampler_gap" not in rows[-1]


def test_gsm8k_with_the_small_model(shared_data, tmp_path):
    config = gsm8k.get_config("quick")
    config.data.train_path = str(shared_data / "gsm8k/train.jsonl")
    config.data.heldout_path = str(shared_data / "gsm8k/test_head.jsonl")
    start(config, tmp_path / "run")
    rows = table(tmp_path / "run")
    assert [row["phase"] for row in rows] == ["sft"] * 3 + ["rl"] * 2
    # What was too long is counted of held-out rows as of others.
    assert rows[0]["heldout/dropped_rows"] == rows[-1]["data/dropped_rows"] == 0
    assert rows[0]["heldout/truncated_rows"] > 0
    assert rows[-1]["data/truncated_rows"] > 0


def test_a_pretrained_story_model_is_fine_tuned_and_keeps_its_tokenizer(shared_data, tmp_path):
    config = stories.get_config("quick")
    config.model.path = str(shared_data / "stories260k")
    export = start(config, tmp_path / "run")
    before, after = load_file(shared_data / "stories260k/model.safetensors"), load_file(export / "model.safetensors")
    assert before.keys() == after.keys()
    assert any(np.any(before[name] != after[name]) for name in before)
    assert (export / "tokenizer.json").exists()
    assert {"kl", "estep/kl/ref", "estep/kl_over_budget/ref", "rewards/happy_ending/mean"} <= set(
        table(tmp_path / "run")[-1]
    )


OWN = """
calls = 0

def reward(prompts, completions, **_):
    global calls
    calls += 1
    return [float("nan") if {bad} else float(len(text)) for text in completions]
"""


@pytest.mark.parametrize(("bad", "skips"), [("calls == 9", 1), ("calls >= 7", None)])
def test_rewards_that_are_not_finite_skip_updates_and_stop_the_run(bad, skips, tmp_path):
    (tmp_path / "own.py").write_text(OWN.format(bad=bad))
    config = arithmetic.get_config("vmpo,quick").to_dict()
    config["rewards"] = {f"{tmp_path}/own.py:reward": 1.0}
    config["max_skips_in_a_row"] = 2
    config["sft"]["eval_every"] = config["rl"]["eval_every"] = 100
    config["rl"]["num_iterations"] = 6
    workdir = tmp_path / "run"
    if skips is None:
        with pytest.raises(TooManySkippedUpdates, match=r"2 iterations in a row .* max_skips_in_a_row = 2"):
            run(settings_from_config(config), workdir, config)
        assert list((workdir / "checkpoints").glob("step_*"))
        return
    run(settings_from_config(config), workdir, config)
    rows = table(workdir)
    assert rows[-1]["skipped_updates"] == skips
    # Calls 1 to 4 try the function, 5 and 6 judge the ends of SFT; so call 9 is the third rollout, step 4 + 3.
    # The step that was skipped has a row, and no M-step in it.
    assert [row["step"] for row in rows if row["phase"] == "rl" and "loss" not in row] == [7]


def test_budgets_that_cannot_be_met_show_in_the_metrics_and_nothing_runs_away(tmp_path):
    (tmp_path / "own.py").write_text(OWN.format(bad=False))
    config = arithmetic.get_config("at_dar,quick").to_dict()
    config["rewards"] = {f"{tmp_path}/own.py:reward": 1.0}
    config["phases"] = ("rl",)
    config["rl"].update({"num_iterations": 4, "eval_every": 100})
    # The policy drifts from the reference by far more than both budgets allow together.
    config["rl"]["method_args"].update({"epsilon_ref": 1e-4, "epsilon_old": 1e-4})
    config["rl"]["optimizer"].update({"learning_rate": 0.1, "warmup_steps": 0})
    export = run(settings_from_config(config), tmp_path / "run", config)
    rows = [row for row in table(tmp_path / "run") if "estep/feasible" in row]
    # In the first E-step pi_t is pi_ref still.
    assert [row["estep/feasible"] for row in rows] == [1, 0, 0, 0]
    assert rows[0]["estep/shortfall"] == 0
    for row in rows[1:]:
        assert row["estep/shortfall"] > 0
        for policy in ("ref", "old"):
            # What was solved in their place: raised budgets, met to within a tenth where the search had to give up.
            assert row[f"estep/kl/{policy}"] <= 1.1 * (1.1e-4 + 1.01 * row["estep/shortfall"])
            # A search gives up at 1e5 standard deviations of the advantages, in steps of at most nine times.
            assert 0 <= row[f"estep/coefficient/{policy}"] < 1e6 * 200
        assert np.isfinite(row["loss"])
    assert rows[-1]["skipped_updates"] == 0
    assert "kl" in rows[-1]
    for name, values in load_file(export / "model.safetensors").items():
        assert np.all(np.isfinite(values)), name
