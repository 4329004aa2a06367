"""Settings of generation, from the config to the completions of a whole run."""

import json
import sys

import pytest

from configs.llm import arithmetic
from gempi_jax.models.prefill import prefill
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.llm import run

pytestmark = pytest.mark.slow


def test_what_the_config_says_reaches_the_sampler_the_evaluation_and_the_scorer(tmp_path, monkeypatch):
    chunks = []

    def spied(*args, chunk=None, **options):
        chunks.append(chunk)
        return prefill(*args, chunk=chunk, **options)

    for module in ("generate", "scoring"):
        monkeypatch.setattr(sys.modules[f"gempi_jax.llm.{module}"], "prefill", spied)
    config = arithmetic.get_config("awr,quick")
    config.phases = ("rl",)
    config.model.dropout = 0.0
    config.rl.update({"num_iterations": 1, "eval_every": 1, "updates_per_epoch": 1})
    # Of all tokens only the most probable is left.
    config.rl.min_p = 1.0
    # An untrained model with tied embeddings repeats the prompt's last token, a question mark.
    config.rl.stop_sequences = ("??", "never")
    config.rl.prefill_chunk = 8
    run(settings_from_config(config), tmp_path / "run", config.to_dict())
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["frac_reward_zero_std"] == 1.0
    assert rows[-1]["sampler_gap"] < 1e-4
    # Rollout, scoring, M-step and evaluation, each traced at least once.
    assert len(chunks) >= 4
    assert set(chunks) == {8}
    assert rows[-1]["completions/mean_length"] == rows[-1]["heldout/completions/mean_length"] == 2.0
    assert rows[-1]["completions/clipped_ratio"] == rows[-1]["heldout/completions/clipped_ratio"] == 0.0
    samples = [json.loads(line) for line in (tmp_path / "run/samples.jsonl").read_text().splitlines()]
    assert samples[0]["completion"] == "??"
