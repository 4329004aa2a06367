"""A phase's settings against its method, its source and its rows."""

import dataclasses

import pytest

from configs.llm import arithmetic, gsm8k, stories
from gempi_jax.em import GempiSpec, TopK
from gempi_jax.methods import METHODS, from_spec
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.checks import EFFECTS, check_phase
from gempi_jax.runners.modelchecks import check_dropout
from gempi_jax.runners.phaseparts import check_prompts, phase_method
from gempi_jax.runners.scoredrows import check_scored
from gempi_jax.runners.settings import DualSettings, PhaseSettings

SCORED = {"source": "scored", "baseline": "zero"}
DEMONSTRATIONS = {"method": "sft", "source": "demonstrations"}


def check(**settings):
    phase = PhaseSettings(**settings)
    phase_method("rl", phase)


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("quick", ["", ",quick"])
@pytest.mark.parametrize("module", [arithmetic, gsm8k, stories])
def test_shipped_configs_set_nothing_that_has_no_effect(module, method, quick):
    config = module.get_config(method + quick)
    if module is gsm8k and method == "sft":
        pytest.skip("a second phase of SFT has no source here")
    if module is stories and method == "sft":
        pytest.skip("there are no completions to learn")
    with config.unlocked():
        config.model.path = config.model.path or "x"
        config.data.update({"train_path": "x", "heldout_path": "x"})
    for name, phase in settings_from_config(config).phases.items():
        phase_method(name, phase)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        # What a critic, or a price of KL, reads is of a pass over what was written.
        ({"method": "ppo", "old_log_probs": "sampler"}, r"old_log_probs = 'sampler': a critic .* to 'scored'"),
        ({"method": "rloo", "old_log_probs": "sampler"}, r"old_log_probs = 'sampler': rounding .* to 'scored'"),
        # A row's log-probability is of the whole completion.
        ({"method": "ppo", "source": "scored"}, r"config\.rl\.source = 'scored': method 'ppo' weighs each token"),
        # Advantages that the method, or its critic, makes itself.
        ({"method": "grpo", "baseline": "value"}, r"config\.rl\.baseline = 'value': has no effect"),
        ({"method": "ppo", "baseline": "batch_mean"}, r"config\.rl\.baseline = 'batch_mean': has no effect"),
        ({"method": "grpo", "num_generations": 1}, r"method = 'grpo': num_generations is 1, .* at least 2"),
        # One sample of each prompt: nothing to compare it with.
        (
            {"num_generations": 1},
            r"config\.rl\.baseline = 'group_mean': num_generations is 1, .* set num_generations to at least 2, or base",
        ),
        (
            {"source": "scored"},
            r"config\.rl\.baseline = 'group_mean': source 'scored' has one completion of each prompt, .*; set baseline",
        ),
        (
            {"num_generations": 1, "baseline": "zero", "method": "rl_em"},
            r"method_args\.scope = 'group': num_generations is 1, .* set num_generations to at least 2, or method_args",
        ),
        (
            {**SCORED, "method_args": {"scope": "group"}},
            r"method_args\.scope = 'group': source 'scored' has one .*; set method_args\.scope to 'batch'",
        ),
        ({"source": "demonstrations"}, r"config\.rl\.source = 'demonstrations': method 'vmpo' weighs completions by"),
        # Left out at random.
        (
            {"method": "rl_em", "m_step_fraction": 0.5},
            r"config\.rl\.m_step_fraction = 0\.5: all prompts weigh the same, .* set it to",
        ),
        ({**DEMONSTRATIONS, "m_step_fraction": 0.5}, r"config\.rl\.m_step_fraction = 0\.5: all prompts weigh the same"),
    ],
)
def test_what_is_compared_must_be_there(settings, message):
    with pytest.raises(ValueError, match=message):
        check(**settings)


NO_EFFECT = {
    "baseline": {**DEMONSTRATIONS, "baseline": "batch_mean"},
    "normalize_advantages": {**DEMONSTRATIONS, "normalize_advantages": True},
    "value_learning_rate": {"value_learning_rate": 1.0},
    "num_generations": {**SCORED, "num_generations": 4},
    "temperature": {**SCORED, "temperature": 0.5},
    "tempered": {"tempered": "sampler"},
    "top_k": {**SCORED, "top_k": 4},
    "top_p": {**SCORED, "top_p": 0.5},
    "min_p": {**SCORED, "min_p": 0.5},
    "shrink": {**SCORED, "shrink": (2,)},
    "old_period": {**DEMONSTRATIONS, "old_period": 2},
    "old_ema_decay": {**DEMONSTRATIONS, "old_ema_decay": 0.5},
    "ratio_dropout": {"method": "vmpo", "ratio_dropout": True},
    "trust_region_dropout": {"method": "awr", "trust_region_dropout": "deterministic"},
    "duals.optimizer": {"method": "awr", "duals": DualSettings(optimizer="sgd")},
    "duals.num_temperature_steps": {
        "method_args": {"temperature": "solved"},
        "duals": DualSettings(num_temperature_steps=7),
    },
    "duals.temperature_learning_rate": {"method": "dar_tr", "duals": DualSettings(temperature_learning_rate=0.7)},
    "duals.multiplier_learning_rate": {"method": "at_dar", "duals": DualSettings(multiplier_learning_rate=0.7)},
}


@pytest.mark.parametrize("setting", sorted({*NO_EFFECT, *(effect.setting for effect in EFFECTS)}))
def test_a_setting_without_effect_is_refused_by_name(setting):
    with pytest.raises(ValueError, match=rf"config\.rl\.{setting} = .*: has no effect with method .*; leave it at"):
        check(**NO_EFFECT[setting])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        DEMONSTRATIONS,
        {**DEMONSTRATIONS, "baseline": "zero", "num_generations": 1},
        {"baseline": "value", "value_learning_rate": 1.0},
        {"old_period": 2, "method": "rl_em"},
        SCORED,
        {**SCORED, "method": "rl_em", "method_args": {"scope": "batch"}},
        {"num_generations": 1, "baseline": "batch_mean"},
        {"m_step_fraction": 0.5, "updates_per_epoch": 2},
    ],
)
def test_settings_that_fit_each_other_pass(settings):
    check(**settings)


def test_a_filter_alone_weighs_rewards():
    best_of_k, phase = from_spec(GempiSpec(filter=TopK(0.25))), PhaseSettings(method="sft")
    check_phase("rl", phase, best_of_k)
    with pytest.raises(ValueError, match="weighs completions by their rewards"):
        check_phase("rl", dataclasses.replace(phase, source="demonstrations"), best_of_k)


def rows(*log_probs):
    return [{"reward": 1.0} | ({} if value is None else {"log_prob": value}) for value in log_probs]


def test_rows_of_another_policy_say_how_likely_it_found_them():
    of_pi_t, of_ref = METHODS["awr"](), METHODS["dar"]()
    assert not check_scored("rl", rows(None, None), of_pi_t)
    assert check_scored("rl", rows(-1.5, 0), of_pi_t)
    assert check_scored("rl", rows(-1.5, 0), of_ref)
    for method, bad, message in [
        (of_ref, rows(None, None), r"source = 'scored': row 0 has no column 'log_prob', which the anchor 'ref' is wei"),
        (of_ref, rows(-1.0, None), r"row 1 has no column 'log_prob', which the anchor 'ref'"),
        (of_pi_t, rows(-1.0, None), r"row 1 has no column 'log_prob', and others do"),
        (of_pi_t, rows(-1.0, 0.5), r"row 1 has log_prob 0\.5; it has to be a finite number of at most 0"),
        (of_pi_t, rows(float("nan")), r"row 0 has log_prob nan"),
        (of_pi_t, rows("-1"), r"row 0 has log_prob '-1'"),
        (of_pi_t, [{"log_prob": -1.0}], r"row 0 has no column 'reward'"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_scored("rl", bad, method)


def test_ratios_with_dropout_are_refused_unless_asked_for():
    phase = PhaseSettings(method="grpo")
    with pytest.raises(ValueError, match=r"dropout\) = 0\.1: method 'grpo' .* config\.rl\.ratio_dropout to True"):
        check_dropout("rl", phase, METHODS["grpo"](), 0.1)
    check_dropout("rl", dataclasses.replace(phase, ratio_dropout=True), METHODS["grpo"](), 0.1)
    check_dropout("rl", phase, METHODS["grpo"](), 0.0)
    check_dropout("rl", phase, METHODS["rloo"](epsilon=None), 0.1)


def test_a_critic_of_whole_completions_needs_prompts():
    method, rows = METHODS["ppo_sequence"](), [{"text": "one"}, {"text": "two", "prompt": ""}]
    with pytest.raises(ValueError, match=r"config\.rl has a critic .* set baseline to 'batch_mean', or choose"):
        check_prompts("rl", rows, method)
    check_prompts("rl", [*rows, {"prompt": "x"}], method)
    check_prompts("rl", rows, METHODS["ppo"]())
