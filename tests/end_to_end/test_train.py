"""Promises about whole runs, kept by real processes that are killed for real."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest

pytestmark = pytest.mark.slow

CONFIG = "configs/llm/arithmetic.py:vmpo,quick"
DROPOUT = "--config.model.dropout=0.1"


@pytest.fixture(scope="module")
def reference(runs, tmp_path_factory):
    """A run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("reference") / "run"
    code, output = runs.run(CONFIG, workdir, DROPOUT)
    assert code == 0, output
    return workdir


def same_result(rows, one: pathlib.Path, other: pathlib.Path) -> None:
    """Parameters, duals, optimiser and metrics, bit for bit."""
    assert rows(one) == rows(other)
    assert (one / "export/model.safetensors").read_bytes() == (other / "export/model.safetensors").read_bytes()
    assert (one / "samples.jsonl").read_bytes() == (other / "samples.jsonl").read_bytes()


def test_a_run_leaves_everything_that_it_promises(reference, rows):
    names = {path.name for path in reference.iterdir()}
    assert {"config.json", "metrics.jsonl", "samples.jsonl", "checkpoints", "export", "report.html"} <= names
    assert list(reference.rglob("events.out.tfevents*"))
    table = rows(reference)
    assert [row["step"] for row in table] == list(range(9))
    assert [row["phase"] for row in table] == ["sft"] * 5 + ["rl"] * 4
    wanted = "loss learning_rate grad_norm num_tokens entropy reward reward_std frac_reward_zero_std skipped_updates"
    wanted = {*wanted.split(), "rewards/exact_match/mean", "completions/mean_length", "completions/clipped_ratio"}
    wanted |= {f"estep/{name}" for name in ("temperature", "ess", "ess_fraction", "kl/old", "kl_over_budget/old")}
    wanted |= {f"mstep/{name}" for name in ("nll", "kl", "kl_over_budget", "step_scale")}
    assert wanted <= set(table[-1])
    assert np.isfinite([value for name, value in table[-1].items() if name != "phase"]).all()
    # Sampler and scorer agree: the ratio of two evaluations of one policy.
    assert table[-1]["sampler_gap"] < 1e-4
    assert "<script src" not in (reference / "report.html").read_text()


def test_the_export_opens_in_transformers_and_a_pipeline_writes_the_same_tokens(reference):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, pipeline

    export = reference / "export"
    tokenizer, model = AutoTokenizer.from_pretrained(export), AutoModelForCausalLM.from_pretrained(export)
    GenerationConfig.from_pretrained(export)
    samples = [json.loads(line) for line in (reference / "samples.jsonl").read_text().splitlines()]
    last = [row for row in samples if row["phase"] == "rl" and row["when"] == "after"]
    assert last
    write = pipeline("text-generation", model=str(export), device="cpu")
    for row in last:
        ids = tokenizer(row["prompt"], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            out = model.generate(ids, do_sample=False, max_new_tokens=21, pad_token_id=tokenizer.pad_token_id)
        assert tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True) == row["completion"]
        (written,) = write(row["prompt"], do_sample=False, max_new_tokens=21, return_full_text=False)
        assert written["generated_text"] == row["completion"]


@pytest.mark.parametrize("row", [0, 3, 6])
def test_a_run_killed_at_any_moment_continues_bit_identically(runs, rows, reference, tmp_path, row):
    # The kill falls somewhere into the iteration after the given row, wherever the machine happens to be by then.
    process = runs.start(CONFIG, tmp_path, DROPOUT)
    runs.stop_when(process, lambda: len(rows(tmp_path)) > row, runs.SIGKILL)
    runs.finish(process)
    assert not (tmp_path / "export").exists()
    code, output = runs.run(CONFIG, tmp_path, DROPOUT)
    assert code == 0, output
    same_result(rows, reference, tmp_path)


@pytest.mark.parametrize("row", [1, 5])
def test_sigterm_saves_and_ends_with_a_status_of_its_own(runs, rows, reference, tmp_path, row):
    process = runs.start(CONFIG, tmp_path, DROPOUT)
    runs.stop_when(process, lambda: len(rows(tmp_path)) > row, runs.SIGTERM)
    code, output = runs.finish(process, 60)
    assert code == 75, output
    assert list((tmp_path / "checkpoints").glob("step_*"))
    code, output = runs.run(CONFIG, tmp_path, DROPOUT)
    assert code == 0, output
    same_result(rows, reference, tmp_path)


def test_a_half_written_checkpoint_is_passed_over(runs, rows, reference, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(reference, workdir)
    shutil.rmtree(workdir / "export")
    newest = sorted((workdir / "checkpoints").glob("step_*"))[-1]
    victim = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    code, output = runs.run(CONFIG, workdir, DROPOUT)
    assert code == 0, output
    assert "passed over" in output
    same_result(rows, reference, workdir)


def test_a_workdir_of_another_config_is_refused_untouched(runs, reference, tmp_path):
    before = {path: path.read_bytes() for path in reference.rglob("*") if path.is_file()}
    code, output = runs.run(CONFIG, reference, DROPOUT, "--config.seed=1")
    assert code == 2
    assert "seed" in output
    assert "another --workdir" in output
    assert "Traceback" not in output
    assert {path: path.read_bytes() for path in reference.rglob("*") if path.is_file()} == before


REWARD = """
def reward(prompts, completions, **_):
    global calls
    calls = globals().get("calls", 0) + 1
    {body}
    return [float(len(text)) / 100 for text in completions]
"""


def write_reward(folder: pathlib.Path, body: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "own.py").write_text(REWARD.format(body=body))
    return f"--config.reward_functions=('{folder}/own.py:reward',)"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError('label')", "label"),
        ("return [1.0]", "1"),
        ("return [float('nan')] * len(completions)", "nan"),
        ("return [None] * len(completions)", "None"),
        ("return ['good'] * len(completions)", "good"),
    ],
)
def test_a_broken_reward_stops_the_run_before_any_compute(tmp_path, body, message):
    # In this process: what is tested is the order of things, and that needs no second one.
    from configs.llm import arithmetic
    from gempi_jax.llm.rewards import RewardError
    from gempi_jax.runners.build import settings_from_config
    from gempi_jax.runners.llm import run

    write_reward(tmp_path / "code", body)
    config = arithmetic.get_config("vmpo,quick").to_dict()
    config["rewards"] = {f"{tmp_path}/code/own.py:reward": 1.0}
    with pytest.raises(RewardError, match=message):
        run(settings_from_config(config), tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (CONFIG, ["--config.sed=1"], r"--config\.sed=1: config has no 'sed'; did you mean config\.seed"),
        (CONFIG, ["--config.rl.batch_prompts=many"], "--config.rl.batch_prompts=many"),
        ("configs/llm/arithmetic.py:vmop", [], "config arg 'vmop': expected one method of sft"),
        (
            CONFIG,
            ["--config.reward_functions=('x*own.py:reward',)"],
            "reward_functions = 'x.own.py:reward': 'x' is no w",
        ),
        ("configs/llm/nowhere.py", [], "nowhere.py"),
        ("configs/llm/stories.py", [], "config.model.path: required"),
    ],
)
def test_a_command_that_cannot_be_right_says_what_is_wrong(runs, tmp_path, config, options, message):
    code, output = runs.run(config, tmp_path / "run", *options)
    assert code == 2, output
    assert re.search(message, output)
    assert "Traceback" not in output
    assert not (tmp_path / "run").exists()
