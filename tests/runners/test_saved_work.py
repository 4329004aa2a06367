"""What an iteration leaves out, padding and passes that the sampler has made already, changes none of its numbers."""

import json

import numpy as np
import pytest

from configs.llm import arithmetic
from gempi_jax.runners import phase
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.llm import run


def rows(folder, method="vmpo", **changes):
    """Of two iterations of RL, whose completions are of few tokens of at most 21: a fresh model soon spells a digit."""
    config = arithmetic.get_config(f"{method},quick")
    config.unlock()
    config.phases = ("rl",)
    config.rl.update({"num_iterations": 2, "eval_every": 2, "stop_sequences": tuple("0123456789+-=# "), **changes})
    config.rl.optimizer.warmup_steps = 0
    run(settings_from_config(config), folder, config.to_dict())
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][1:]


def assert_same(ours, theirs, *names):
    for one, other in zip(ours, theirs, strict=True):
        for name in names:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_padding_that_is_cut(tmp_path, monkeypatch):
    widths, cut = [], phase._cut
    monkeypatch.setattr(phase, "_cut", lambda tree, width: (widths.append(width), cut(tree, width))[1])
    both = [rows(tmp_path / str(buckets), length_buckets=buckets) for buckets in (3, 1)]
    assert set(widths[:2]) <= {6, 11}
    assert widths[2:] == [21, 21]
    assert_same(*both, "loss", "grad_norm", "entropy", "mstep/kl", "estep/ess", "reward", "sampler_gap")


@pytest.mark.parametrize("enforced", ["line_search", "lagrangian"])
def test_states_that_the_sampler_computed(enforced, tmp_path):
    arguments = {"enforced": enforced}
    both = [
        rows(tmp_path / name, method_args=arguments, old_log_probs=name, m_step_fraction=1.0)
        for name in ("auto", "scored")
    ]
    assert "sampler_gap" not in both[0][0]
    assert both[1][0]["sampler_gap"] < 1e-5
    assert_same(*both, "loss", "grad_norm", "mstep/kl", "estep/ess", "reward")
