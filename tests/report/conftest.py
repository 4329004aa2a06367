"""Workdirs as runs leave them, small."""

import json

import pytest

CONFIG = {
    "seed": 0,
    "phases": ["sft", "rl"],
    "data": {"task": "arithmetic"},
    "sft": {"method": "sft", "num_iterations": 20, "optimizer": {"learning_rate": 0.003}},
    "rl": {"method": "vmpo", "num_iterations": 30},
}


def _rows(offset: float):
    yield {"step": 0, "phase": "sft", "heldout/reward": 0.0}
    for step in range(1, 21):
        row = {"step": step, "phase": "sft", "loss": 3.0 / step, "step_time": 0.5, "skipped_updates": 0.0}
        yield row | ({"heldout/reward": 0.25 * step / 20} if step % 5 == 0 else {})
    for step in range(21, 51):
        row = {
            "step": step,
            "phase": "rl",
            "reward": 0.2 + 0.01 * (step - 20),
            "loss": 1.0,
            "step_time": 1.0,
            "timing_s/generate": 0.6,
            "timing_s/m_step": 0.3,
            "mstep/kl_over_budget": 0.9,
            "estep/kl_over_budget/old": 1.0,
            "estep/ess_fraction": 0.8,
            "estep/temperature": 0.5,
            "mstep/multiplier": 2.0,
            "perf/tokens_per_second": 20_000.0,
            "skipped_updates": 0.0,
        }
        yield row | ({"heldout/reward": 0.25 + offset + 0.01 * (step - 20)} if step % 10 == 0 else {})


def _samples():
    for phase, when, step in (("sft", "before", 0), ("sft", "after", 20), ("rl", "before", 20), ("rl", "after", 50)):
        for index in range(4):
            right = ((phase, when) == ("rl", "after") and index < 3) or (when == "after" and index == 0)
            text = f"{index}+1={index + 1} #### {index + 1 if right else 0}"
            sample = {"prompt": f"{index} + 1?", "answer": str(index + 1), "completion": text, "reward": float(right)}
            yield {"step": step, "phase": phase, "when": when, **sample}


@pytest.fixture
def make_workdir(tmp_path):
    """(name, **changes of the config) -> a finished run; ``offset`` is added to the last phase's held-out accuracy."""

    def make(name="run", *, offset=0.0, rows=None, samples=None, **config):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(CONFIG | config))
        for file, content in (
            ("metrics", rows or _rows(offset)),
            ("samples", _samples() if samples is None else samples),
        ):
            (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
        return folder

    return make
