"""Command lines as users type them: two at once, in a home folder, with line breaks, and with rewards of their own."""

import json
import pathlib
import subprocess
import sys

import pytest

from configs import common
from experiments import launch
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.overrides import read_overrides
from gempi_jax.training.writers import WorkdirError
from tests.cases import users

ROWS = [{"question": f"The {a} is", "answer": f" {b}."} for a in ("cat", "dog") for b in ("big", "red")]
HELDOUT = [{"question": "The cow is", "answer": " big."}] * 4


def config_from(tmp_path, model, *arguments):
    """The users' config, with settings from the command line."""
    rows = users.write_rows(tmp_path / "rows.jsonl", ROWS)
    config = users.users_config(model, rows, users.write_rows(tmp_path / "heldout.jsonl", HELDOUT))
    for override in read_overrides(arguments, config.to_dict()):
        launch.set_override(config, override)
    return config


def test_columns_and_line_breaks_given_on_the_command_line_reach_the_prompts(words_model, tmp_path):
    config = config_from(
        tmp_path,
        words_model(),
        "--config.data.columns.question=prompt",
        "--config.data.columns.answer=completion",
        r"--config.data.prompt_template=Q: {prompt}\nA:",
        "--config.sft.num_iterations=1",
    )
    users.start(config, tmp_path / "run")
    samples = [json.loads(line) for line in (tmp_path / "run/samples.jsonl").read_text().splitlines()]
    assert {sample["prompt"] for sample in samples} == {"Q: The cow is\nA:"}


def test_a_second_run_in_a_workdir_touches_nothing_and_one_after_it_goes_on(words_model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    rename = "--config.data.columns={'question': 'prompt', 'answer': 'completion'}"
    config = config_from(tmp_path, words_model(), rename, "--config.sft.num_iterations=1")
    users.start(config, pathlib.Path("~/runs/a"))
    workdir = tmp_path / "runs/a"
    assert (workdir / "export/config.json").is_file()
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    hold = (
        "import fcntl, sys\n"
        f"file = open({str(workdir / 'lock')!r})\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", hold]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with monkeypatch.context() as patched:
            # Refused before anything is read.
            patched.setattr("gempi_jax.runners.llm.load_task", None)
            with pytest.raises(WorkdirError, match=r"is in use by process .*: wait for that run, end it, or give anot"):
                users.start(config, workdir)
        assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before
    users.start(config, workdir)


def test_every_setting_of_every_config_can_be_given_on_the_command_line():
    config = common.base()
    config.phases, config.rewards.exact_match, config.rl = ("rl",), 1.0, common.phase("vmpo")
    given = [
        f"--config.{name}={value}"
        for name, value in config.to_dict().items()
        if not isinstance(value, dict) and name not in ("rl",)
    ]
    given += [
        f"--config.{section}.{name}={value}"
        for section in ("model", "data", "eval", "checkpoint", "mesh", "rl")
        for name, value in config[section].to_dict().items()
    ]
    before = config.to_dict()
    for override in read_overrides(given, before):
        launch.set_override(config, override)
    assert config.to_dict() == before
    settings_from_config(config)
