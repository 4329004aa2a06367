"""Every subcommand at a toy size; sides of ours run in this process, but for one that shows the real thing."""

import contextlib
import importlib
import json
import pathlib
import typing

import pytest
from transformers import PreTrainedTokenizerFast

from experiments import benchmark
from experiments.benchmarks import memory
from experiments.speed import counts, driver, hlo, show
from experiments.speed.folder import END, write_folder
from experiments.speed.sides import ours
from experiments.speed.work import SIZES, Job, Size, Work, spread
from gempi_jax.runners.build import settings_from_config

TURNS = 2


class Enough(Exception):
    """A loop has had its turns."""


class Here:
    """A worker in this process: its loop runs at once for a few turns, and the last report is repeated.

    The same task of the same method on made-up rows runs once for all tests.
    """

    known: typing.ClassVar[dict] = {}

    def __init__(self, job: Job):
        self.job, key = job, (job.task, job.method, (pathlib.Path(job.folder) / "model").is_symlink())
        if key not in self.known:
            self._reports = []
            module = importlib.import_module(f"experiments.speed.sides.{job.side}")
            with contextlib.suppress(Enough):
                getattr(module, job.task)(job, self._take)
            self.known[key] = self._reports
        self.ready, *self._reports = self.known[key]

    def _take(self, **extra):
        self._reports.append({"cpu_s": 1.0, "wall_s": 1.0, "peak_mib": 1.0, **extra})
        if len(self._reports) > TURNS:
            raise Enough

    def turn(self):
        return self._reports.pop(0) if len(self._reports) > 1 else self._reports[0]

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(driver, "Worker", Here)
    monkeypatch.setattr("experiments.benchmarks.accelerator.Worker", Here)


def run(name: str, folder: pathlib.Path, *arguments: str):
    result = importlib.import_module(f"experiments.benchmarks.{name}").main([*arguments, "--output", str(folder)])
    values = json.loads((folder / f"{name}.json").read_text())
    assert values["conditions"]["command"].startswith(name)
    assert (folder / f"{name}.png").stat().st_size > 1000
    return result, values["results"]


def test_help_lists_every_benchmark(capsys):
    benchmark.main(["--help"])
    text = capsys.readouterr().out
    for name in ("rl", "dpo", "sft", "generation", "memory", "compile", "instruct", "accelerator", "estep"):
        assert f"  {name} " in text


def test_an_unknown_benchmark_is_refused_with_the_names():
    with pytest.raises(SystemExit, match="'rll' is not one of accelerator, compile, dpo"):
        benchmark.main(["rll"])


@pytest.mark.parametrize("name", ["rl", "dpo"])
def test_absent_peers_are_said_by_name(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GEMPI_PEERS", str(tmp_path))
    method = {"rl": "grpo", "dpo": "dpo"}[name]
    module = importlib.import_module(f"experiments.benchmarks.{name}")
    with pytest.raises(SystemExit, match="none of the sides is installed"):
        module.main(["toy", "--sides", f"tunix:{method}", f"trl:{method}"])
    text = capsys.readouterr().out
    assert f"tunix:{method}: skipped, not installed; `make peers`" in text
    assert f"trl:{method}: skipped" in text


def test_a_wrong_size_or_side_is_refused(capsys):
    module = importlib.import_module("experiments.benchmarks.rl")
    for arguments, message in ((["7B"], "'7B' is no size"), (["toy", "--sides", "verl"], "'verl' is no side")):
        with pytest.raises(SystemExit):
            module.main(arguments)
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "sides", "more"),
    [
        ("rl", ["ours:grpo"], ["--ragged"]),
        ("dpo", ["ours:dpo"], []),
        ("sft", ["ours:sft"], []),
        ("generation", ["ours:rollout"], []),
    ],
)
def test_a_comparison_prints_a_table_and_writes_its_figures(name, sides, more, here, tmp_path, capsys):
    results, written = run(name, tmp_path, "toy", "--allocator", "with", *more, "--sides", *sides, "--turns", "1")
    ((title, (timing,)),) = results.items()
    assert title.startswith("toy")
    assert written[title][0]["median_s"] == timing.median == 1.0
    assert f"{name}, {title}: CPU seconds an iteration" in capsys.readouterr().out


@pytest.mark.parametrize("method", sorted(ours.METHODS))
def test_every_method_of_ours_is_a_config_that_is_understood(method):
    task = method if method in {"dpo", "sft"} else "rl"
    source = {"dpo": "preferences", "sft": "demonstrations"}.get(method, "rollout")
    job = Job("ours", task, method, "folder", SIZES["toy"], Work(), settings={"updates_per_epoch": 2, "config.seed": 3})
    settings = settings_from_config(ours.config_of(job, source=source))
    assert settings.phases["measured"].updates_per_epoch == 2
    assert settings.seed == 3


def test_compilation_is_listed_by_program(here, tmp_path):
    results, _ = run("compile", tmp_path, "toy", "--sides", "ours:sft")
    assert results["toy, ours:sft"]["num_programs"] > 0


def test_an_accelerator_s_path_is_walked_by_a_toy(here, tmp_path):
    results, written = run("accelerator", tmp_path, "toy", "--turns", "1")
    assert 0 < results["toy"]["mfu"] < 1
    assert written["peak"]["source"].startswith("measured")


def test_an_instruct_model_is_skipped_by_name_or_measured(here, tmp_path, capsys):
    module = importlib.import_module("experiments.benchmarks.instruct")
    assert module.main(["--model", str(tmp_path / "none")]) == {}
    assert "instruct: skipped, there is no model in" in capsys.readouterr().out
    folder = write_folder(tmp_path / "toy", SIZES["toy"], Work(mean_length=8)) / "model"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %} w3"
    tokenizer.save_pretrained(folder)
    results, _ = run("instruct", tmp_path, "--model", str(folder), "--sides", "ours:grpo", "--turns", "1")
    assert set(results["ours:grpo"]["stages_s"]) >= {"generate", "score", "m_step"}


def test_a_process_of_its_own_tells_what_xla_holds(tmp_path, monkeypatch):
    """GRPO of [16, 64] tokens: the whole of its logits or less, never nothing, and more than one position's."""
    flags = driver.ENVIRONMENT["XLA_FLAGS"] + " --xla_backend_optimization_level=0"
    monkeypatch.setitem(driver.ENVIRONMENT, "XLA_FLAGS", flags)
    monkeypatch.setattr(memory, "LOGITS_BYTES", 1)
    monkeypatch.setattr(memory, "FEWEST_POSITIONS", 1)
    with pytest.raises(SystemExit, match=r"more logits at a time than .* toy prompts x 1"):
        run("memory", tmp_path, "toy", "--factors", "1", "--sides", "ours:grpo")
    (row,) = json.loads((tmp_path / "memory.json").read_text())["results"]
    assert row["peak_mib"] > 100
    assert row["temporary_mib"] > 0
    assert 0 < row["share_of_whole"] <= 2
    assert row["over_limit"]


def test_the_largest_logits_of_a_program_are_found():
    text = "%a = f32[16,64,512]{2,1,0} dot(f32[16,64,32]{2,1,0} %b, f32[512,32]{1,0} %c), f32[8,1,512] bf16[512]"
    assert hlo.largest_logits(text, 512) == (16 * 64 * 512, "16x64x512")
    assert hlo.largest_logits(text, 7) == (0, "")


def test_temporary_bytes_leave_arguments_and_results_out():
    text = (
        "allocation 0: 0x1, size 100, parameter 0, shape |f32[25]| at ShapeIndex {}:\n value: <1 x @0>\n"
        "allocation 1: 0x2, size 40, maybe-live-out:\nallocation 2: 0x3, size 4, constant:\n"
        "allocation 3: 0x4, size 77, preallocated-temp:\n"
    )
    assert hlo.temporary_bytes(text) == 77


def test_operations_and_bytes_by_hand():
    # One layer of width 4 with 2 heads and 1 pair of keys and values: q and o 16 each, k and v 8 each, MLP 3 x 4 x 8.
    size, work = Size(10, 4, 8, 1, 2, 1), Work(prompts=2, samples=3, prompt_length=5, completion_length=7)
    assert counts.layer_weights(size) == 48 + 96
    # Read 10, written 42; seen 10 x 2.5 + 42 x 8.5 = 382.
    assert counts.forward_flops(size, work) == 2 * 144 * 52 + 2 * 10 * 4 * 42 + 4 * 4 * 382
    assert counts.update_flops(size, work) == 3 * counts.forward_flops(size, work)
    # A token of the cache: 2 x 1 x 1 x 2 numbers of 2 bytes.
    assert counts.decode_bytes(size, work) == 7 * (2 * (144 + 40) + 10 * 8 + 6 * 8 * 3.5)


def test_ratios_compare_turns_of_the_same_round():
    job = Job("ours", "rl", "vmpo", "", SIZES["toy"], Work())
    ours, theirs = (
        driver.Timing(job, {}, {"peak_mib": 1}, [{"cpu_s": value, "peak_mib": 1} for value in values])
        for values in ((1.0, 2.0, 4.0), (3.0, 4.0, 4.0))
    )
    assert show.ratio(ours, theirs) == (2.0, 1.0, 3.0)


def test_completions_end_by_the_end_token_s_logit_alone(tmp_path):
    """Mean 4: an end after each token with probability 1 / 4, whatever was read."""
    import jax
    import jax.numpy as jnp

    from gempi_jax.llm.hf.pretrained import load_pretrained

    model, params, *_ = load_pretrained(write_folder(tmp_path, SIZES["toy"], Work(mean_length=4)) / "model")
    tokens = jax.random.randint(jax.random.key(0), (2, 8), 2, 64)
    probabilities = jax.nn.softmax(model.apply({"params": params}, tokens))
    assert jnp.allclose(probabilities[..., END], 0.25, atol=0.02)


def test_a_job_survives_its_journey():
    job = Job("tunix", "rl", "grpo", "folder", SIZES["5.0M"], Work(mean_length=16), settings={"a": 1})
    assert Job.load(job.write()) == job
    assert spread(["a", "b"], ["x", "y"]) == spread(["c", "d"], ["x", "y"], other=[1, 2])
    assert len(spread([[]], [[{"role": "assistant", "content": "x"}]])) == 1
