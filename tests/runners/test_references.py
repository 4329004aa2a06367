"""Rewards of completions that pi_ref writes: beside a rollout, or as a column of scored rows."""

import jax
import numpy as np
import pytest

from gempi_jax.methods import METHODS
from gempi_jax.runners.data import Rewarded
from gempi_jax.runners.phaseparts import phase_method
from gempi_jax.runners.scoredrows import check_references, check_scored
from gempi_jax.runners.settings import OptimizerSettings, PhaseSettings
from tests.runners.test_phase import MODEL, OneBatch, iterate, make_batch

SAMPLES, REFERENCES = 2, 3
METHOD = METHODS["a_star_po"](reference_samples=REFERENCES)
PHASE = PhaseSettings(
    method="a_star_po",
    batch_prompts=2,
    num_generations=SAMPLES,
    max_completion_length=4,
    updates_per_epoch=1,
    # Cold: both policies write what they hold most likely.
    temperature=1e-4,
    tempered="sampler",
    optimizer=OptimizerSettings(learning_rate=0.3),
)


class Rolled(OneBatch):
    """A source that keeps what it is asked to reward: completions [G, K, C], by how many there are."""

    def __init__(self, fails=()):
        super().__init__(make_batch(np.zeros((2, SAMPLES))), None)
        self.asked, self._fails = [], fails

    def rewards(self, prompts, completions):
        rewards = completions.tokens.mean(axis=-1) + np.arange(completions.tokens.shape[1], dtype=np.float32)
        self.asked.append(completions.tokens)
        finite = len(self.asked) not in self._fails
        return Rewarded(rewards if finite else np.full_like(rewards, np.nan), finite, {"reward": float(rewards.mean())})


def test_the_policy_moves_and_its_reference_writes_as_it_did(random_params):
    source = Rolled()
    state, rows = iterate(PHASE, METHOD, random_params(MODEL), source, 4)
    assert [tokens.shape[1] for tokens in source.asked] == [SAMPLES, REFERENCES] * 4
    written, references = source.asked[::2], source.asked[1::2]
    for later in references[1:]:
        np.testing.assert_array_equal(later, references[0])
    # Before the first update the policy is the reference; after it, another.
    np.testing.assert_array_equal(written[0], references[0][:, :SAMPLES])
    assert any(np.any(later != written[0]) for later in written[1:])
    assert all({"reference_reward", "timing_s/reference"} <= row.keys() for row in rows)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize("fails", [1, 2])
def test_rewards_that_fail_cost_the_batch_and_no_more(random_params, fails):
    source = Rolled(fails={fails})
    state, rows = iterate(PHASE, METHOD, random_params(MODEL), source, 2)
    assert int(state.skipped) == 1
    # What failed for the policy's own is not asked about the reference's.
    assert len(source.asked) == (3 if fails == 1 else 4)
    assert "mstep/regression" not in rows[0]
    assert np.isfinite(rows[1]["mstep/regression"])


def test_scored_rows_carry_them_and_no_log_prob():
    rows = [{"prompt": "x", "completion": "y", "reward": 1.0, "reference_rewards": [0.0, 1, 0.5]}]
    assert not check_scored("rl", rows, METHOD)
    assert check_references("rl", rows, METHOD)
    assert not check_references("rl", rows, METHODS["awr"]())


@pytest.mark.parametrize("value", [None, [0.0, 1.0], [0.0, 1.0, float("nan")], "012", 1.0, [0.0, 1.0, "1"]])
def test_rows_without_them_are_refused(value):
    rows = [{"prompt": "x", "completion": "y", "reward": 1.0, "reference_rewards": value}]
    message = r"config\.rl\.source = 'scored': .* give the rewards of 3 completions .* method_args\.reference_samples"
    with pytest.raises(ValueError, match=message):
        check_references("rl", rows, METHOD)


@pytest.mark.parametrize("name", ["opmd", "oapl", "gvpo", "rebel", "tba"])
def test_one_sample_is_compared_with_nothing(name):
    phase = PhaseSettings(method=name, num_generations=1)
    with pytest.raises(ValueError, match=rf"config\.rl\.method = '{name}': num_generations is 1, .* at least 2"):
        phase_method("rl", phase)


@pytest.mark.parametrize("name", ["a_star_po", "qrpo"])
def test_one_sample_is_compared_with_the_references(name):
    assert phase_method("rl", PhaseSettings(method=name, num_generations=1)).needs.reference_samples


def test_a_baseline_that_nothing_reads_is_refused():
    with pytest.raises(ValueError, match=r"config\.rl\.baseline = 'batch_mean': has no effect with method 'gvpo'"):
        phase_method("rl", PhaseSettings(method="gvpo", baseline="batch_mean"))
