"""From a command line to an exit status: a mistake of the user's is one line, one of ours a traceback that says so."""

import subprocess
import sys

import jax
import pytest
from ml_collections import ConfigDict

from configs.llm import arithmetic
from experiments import launch, make_report
from gempi_jax.runners.overrides import Override, read_overrides
from gempi_jax.training.preemption import Preempted

CONFIG = "configs/llm/arithmetic.py:vmpo,quick"


@pytest.fixture
def ending(monkeypatch, capsys):
    """Launches a run that ends as asked; exit status and what is printed as errors."""

    def end(error, *arguments, config=CONFIG):
        def run(*_, **__):
            if error is not None:
                raise error
            int("x" * 3)  # a ValueError that nobody wrote

        monkeypatch.setattr(launch.llm, "run", run)
        # The devices of this process are there already.
        monkeypatch.setattr(launch.jax.config, "update", lambda *_: None)
        status = launch.launch(config, "runs/none", arguments)
        return status, capsys.readouterr().err

    return end


def test_what_was_written_to_be_read_is_one_line(ending):
    assert ending(FileNotFoundError(2, "No such file", "a.jsonl")) == (2, "error: [Errno 2] No such file: 'a.jsonl'\n")
    status, said = ending(None, "--config.rl.batch_prompts=-1")
    assert (status, said.count("\n")) == (2, 1)
    assert "config.rl.batch_prompts = -1: must be at least 1" in said


def test_what_nobody_foresaw_is_a_traceback_that_says_so(ending):
    status, said = ending(None)
    assert status == 1
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("error: this is a mistake in gempi_jax")


def test_nothing_ends_with_status_0_but_a_run_that_is_done(ending):
    status, said = ending(SystemExit(0))
    assert (status, said) == (1, "error: something that the run called ended the process (SystemExit(0))\n")
    with pytest.raises(Preempted):
        ending(Preempted())


@pytest.mark.parametrize(
    "error",
    [jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating\n 9 bytes"), MemoryError("9 TiB")],
)
def test_too_little_memory_says_which_settings_take_less(ending, error):
    status, said = ending(error)
    assert (status, said.count("\n")) == (1, 1)
    assert "raise num_microbatches" in said


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import sys\nsys.exit(0)\n", r"SystemExit: 0 (line 2)"),
        ("def get_config():\n    return {}['a']\n", r"KeyError: 'a' (line 2)"),
        ("def get_config(:\n", r"SyntaxError: invalid syntax (line 1)"),
        ("def get_confg():\n    return {}\n", "has no attribute 'get_config'"),
        ("def get_config():\n    pass\n", "get_config returns None, a NoneType; return the ConfigDict"),
        (
            "import argparse\nargparse.ArgumentParser().parse_args()\ndef get_config():\n    return 1\n",
            "returns 1, a int",
        ),
    ],
)
def test_a_config_file_that_fails_is_named_with_its_line(ending, tmp_path, source, message):
    file = tmp_path / "mine.py"
    file.write_text(source)
    status, said = ending(None, config=str(file))
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith(f"error: --config={file}: ")
    assert message in said


@pytest.mark.parametrize(
    ("config", "workdir", "message"),
    [
        (None, "runs/none", "--config is not given"),
        (CONFIG, None, "--workdir is not given"),
        ("configs/llm/nowhere.py", "runs/none", "there is no file configs/llm/nowhere.py"),
        ("README.md", "runs/none", "README.md is no Python file"),
        (CONFIG, "~nobody_here/a", "~nobody_here is nobody's home"),
    ],
)
def test_what_is_missing_is_named(capsys, config, workdir, message):
    assert launch.launch(config, workdir, []) == 2
    assert message in capsys.readouterr().err


def test_overrides_reach_the_config_whatever_it_leaves_out():
    config = arithmetic.get_config("vmpo,quick")
    given = [
        "--config.data.columns.question=prompt",
        "--config.data.columns={'meta.answer': ('answer', 'completion')}",
        "--config.rewards.happy_ending=0.5",
        "--config.rl.optimizer={'learning_rate': 1, 'b2': 0.5}",
        "--config.phases=rl",
    ]
    with config.unlocked():
        del config.eval
        config.rl.optimizer.b1 = 0.25
    for override in read_overrides([*given, "--config.eval.num_samples=3"], config.to_dict()):
        launch.set_override(config, override)
    values = config.to_dict()
    assert values["data"]["columns"] == {"meta.answer": ("answer", "completion")}
    assert values["rewards"] == {"exact_match": 1.0, "no_repetition": 0.1, "happy_ending": 0.5}
    assert (values["rl"]["optimizer"]["learning_rate"], values["rl"]["optimizer"]["b1"]) == (1, 0.25)
    assert (values["phases"], values["eval"]) == (("rl",), {"num_samples": 3})


def test_references_within_a_config_follow_an_override():
    config = ConfigDict({"seed": 1})
    config.other = config.get_ref("seed")
    launch.set_override(config, Override(("seed",), 2))
    assert config.other == 2


def test_a_tilde_behind_an_equals_sign_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert make_report.folder("~/runs") == tmp_path / "runs"
    (tmp_path / "mine.py").write_text("from configs.llm import arithmetic\nget_config = arithmetic.get_config\n")
    assert launch.load_config("~/mine.py:sft,quick").rl.method == "sft"


def test_the_file_that_workers_of_a_reward_import_is_light():
    code = "import sys, experiments.train; print([name for name in ('jax', 'gempi_jax') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
