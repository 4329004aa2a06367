"""Configs become settings, and every mistake in one names its place, its value and the fix."""

import pytest

from configs.llm import arithmetic, gsm8k, stories
from gempi_jax.em import ExactDivergence, SampledDivergence
from gempi_jax.numerics import categorical_kl, k3
from gempi_jax.runners.build import method_from_settings, settings_from_config
from gempi_jax.runners.optimizers import build_optimizers
from gempi_jax.runners.settings import (
    PhaseSettings,
)


def changed(**changes):
    """The arithmetic config as plain values, with dotted keys set; ``None`` deletes."""
    values = arithmetic.get_config("vmpo,quick").to_dict()
    for key, value in changes.items():
        *path, last = key.split("__")
        section = values
        for name in path:
            section = section[name]
        if value is None:
            del section[last]
        else:
            section[last] = value
    return values


@pytest.mark.parametrize("method", ["vmpo", "awr", "dar", "rl_em", "at_dar", "sft"])
@pytest.mark.parametrize("quick", ["", ",quick"])
def test_every_config_is_valid(method, quick):
    settings = settings_from_config(arithmetic.get_config(method + quick))
    assert list(settings.phases) == ["sft", "rl"]
    for name, phase in settings.phases.items():
        method_from_settings(name, phase)
        build_optimizers(phase, name)


def test_a_config_with_required_paths_says_so():
    for module in (stories, gsm8k):
        config = module.get_config("quick")
        with pytest.raises(ValueError, match=r"config\.(model\.path|data\.(train|heldout)_path): required"):
            settings_from_config(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rl__learning_rte": 1.0}, r"config\.rl\.learning_rte: unknown key"),
        ({"rl__optimizer__learning_rte": 1.0}, r"optimizer\.learning_rte: unknown key; did you mean 'learning_rate'"),
        ({"sed": 1}, r"config\.sed: unknown key; did you mean 'seed'"),
        ({"model__dropout": 1.5}, r"config\.model\.dropout = 1\.5: a rate is in \[0, 1\)"),
        ({"model__lora__rank": -1}, r"config\.model\.lora\.rank = -1: must be at least 1, or 0 for no adapters"),
        (
            {"model__lora": {"rank": 2, "path": "x"}},
            r"config\.model\.lora\.rank = 2: leave it 0: x says its rank",
        ),
        ({"model__num_layers": "two"}, r"config\.model\.num_layers = 'two': must be of type int, is str"),
        ({"rl__batch_prompts": True}, r"config\.rl\.batch_prompts = True: must be of type int"),
        ({"rl__batch_prompts": 6}, r"batch_prompts = 6: m_step_fraction of it must be a multiple of updates_per_epoch"),
        ({"rl__temperature": 0.0}, r"config\.rl\.temperature = 0\.0"),
        ({"phases": ("sft", "rll")}, r"config\.phases names 'rll', which is no section of a phase; did you mean 'rl'"),
        ({"phases": ("sft", "model")}, r"config\.phases names 'model', which is no section of a phase"),
        ({"phases": ("rl", "sft", "rl")}, r"config\.phases names 'rl' twice"),
        # Not run, and yet read.
        ({"phases": ("rl",), "sft__learning_rte": 1.0}, r"config\.sft\.learning_rte: unknown key"),
        ({"phases": ("rl",), "sfd": {"seed": 1}}, r"config\.sfd: unknown key"),
        (
            {"rl__old_log_probs": "sampler", "rl__baseline": "value"},
            r"config\.rl\.old_log_probs = 'sampler': only a rollout without a critic",
        ),
        ({"rl__top_k": -1}, r"config\.rl\.top_k = -1: must be at least 1, or 0 to keep the whole"),
        ({"rl__min_p": 1.5}, r"config\.rl\.min_p = 1\.5: must be in \(0, 1\], or 0 to truncate nothing"),
        ({"rl__prefill_chunk": -4}, r"config\.rl\.prefill_chunk = -4: must be at least 1, or 0 for prompts at once"),
        ({"rl__shrink": (2, 2)}, r"config\.rl\.shrink = \(2, 2\): give growing whole numbers above 1"),
        ({"rl__stop_sequences": "END"}, r"config\.rl\.stop_sequences = 'END': must be a tuple, is str"),
        ({"rl__stop_sequences": ("END", "")}, r"config\.rl\.stop_sequences = \('END', ''\): '' ends everything; drop"),
        ({"rl__stop_sequences": (3,)}, r"config\.rl\.stop_sequences = 3: must be of type str, is int"),
        ({"phases": "sft"}, r"config\.phases = 'sft': must be a tuple"),
        ({"data": None}, r"config\.data: missing"),
        ({"rewards": "exact_match"}, r"config\.rewards = 'exact_match': must be a section"),
        ({"eval__batch_prompts": 0}, r"config\.eval\.batch_prompts = 0: must be at least 1"),
        ({"eval__num_samples": -1}, r"config\.eval\.num_samples = -1: must be at least 1, or 0 to keep none"),
        ({"checkpoint__every": 0}, r"config\.checkpoint\.every = 0: must be at least 1"),
        ({"checkpoint__keep": 0}, r"config\.checkpoint\.keep = 0: must be at least 1"),
        ({"seed": 2**32}, r"config\.seed = 4294967296: must be in \[-2\*\*31, 2\*\*31\)"),
        ({"phases": (1,)}, r"config\.phases = \(1,\): must be a tuple of section names"),
        ({"max_skips_in_a_row": 0}, r"config\.max_skips_in_a_row = 0: must be at least 1"),
        ({"preemption_grace_seconds": -1}, r"config\.preemption_grace_seconds = -1\.0: must be a number of at least 0"),
        ({"rl__temperature": float("inf")}, r"config\.rl\.temperature = inf: the policy must be sampled"),
        ({"rl__duals__num_temperature_steps": -1}, r"config\.rl\.duals\.num_temperature_steps = -1: must be"),
        # Of Adam it would be passed over without a word.
        ({"rl__optimizer__weight_decay": 0.1}, r"config\.rl\.optimizer\.weight_decay = 0\.1: adamw alone decays"),
        ({"model__hidden_size": 33}, r"config\.model\.hidden_size = 33: must be a multiple of num_heads = 2"),
        ({"model__num_kv_heads": 3}, r"config\.model\.num_heads = 2: must be a multiple of num_kv_heads = 3"),
        ({"data__num_heldout": -2}, r"config\.data\.num_heldout = -2: must be at least 1, or 0"),
        ({"data__split": "train"}, r"config\.data\.split = 'train': must be 'tuning' or 'heldout'"),
        ({"data__prompt_template": "{prompt} {x}"}, r"config\.data\.prompt_template = .*needs \{prompt\} in it and no"),
        ({"data__prompt_template": "{prompt} {"}, r"config\.data\.prompt_template = .*a brace of the text itself"),
        ({"data__prompt_template": "{prompt:x}"}, r"config\.data\.prompt_template = "),
        (
            {"data__columns": {"question": 5}},
            r"config\.data\.columns\['question'\] = 5: must be a name such as 'prompt'",
        ),
        ({"model__path": "~nobody_here/m"}, r"config\.model\.path = .*: ~nobody_here is nobody's home folder"),
        ({"rl__method_args": {"epsilon_et": 1.0}}, r"config\.rl\.method_args\.epsilon_et: vmpo has no such argument"),
        ({"mesh__dat": 2}, r"config\.mesh\.dat: unknown key; did you mean 'data'"),
    ],
)
def test_mistakes_name_place_value_and_fix(changes, message):
    with pytest.raises(ValueError, match=message):
        settings_from_config(changed(**changes))


@pytest.mark.parametrize("names", [("rl",), ("rl", "sft"), ["sft"]])
def test_phases_run_in_the_order_named_and_the_others_do_not(names):
    assert list(settings_from_config(changed(phases=names)).phases) == list(names)


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        (PhaseSettings(method="vmop"), r"config\.rl\.method = 'vmop': did you mean 'vmpo'"),
        (PhaseSettings(method_args={"epsilon_eta_": 1.0}), r"method_args\.epsilon_eta_: vmpo has no such argument"),
        (PhaseSettings(method_args={"epsilon_eta": -1.0}), r"config\.rl\.method_args = \{'epsilon_eta': -1\.0\}"),
        (
            PhaseSettings(method_args={"epsilon_eta": "0.1"}),
            r"method_args\.epsilon_eta = '0\.1': must be of type float",
        ),
        (PhaseSettings(method_args={"epsilon_eta": True}), r"method_args\.epsilon_eta = True: must be of type float"),
        (PhaseSettings(method_args={"temperature": "dual_0"}), r"temperature = 'dual_0': give the temperature at the"),
        (PhaseSettings(method_args={"trust_region": "k4"}), r"trust_region = 'k4': did you mean 'k3'\? Valid: chi_squ"),
        (PhaseSettings(method_args={"temperature": "solvd"}), r"temperature = 'solvd': did you mean 'solved'"),
    ],
)
def test_methods_are_checked(phase, message):
    with pytest.raises(ValueError, match=message):
        method_from_settings("rl", phase)


def test_options_are_found_by_the_type_of_the_argument():
    arguments = {"temperature": "dual_0.5", "trust_region": "k3", "epsilon_alpha": 0.01}
    method = method_from_settings("rl", PhaseSettings(method_args=arguments))
    assert method.init()["temperature"].tolist() == [0.5]
    assert method.needs.trust_region.divergence == SampledDivergence(k3)
    # Of any method that has an argument of that type.
    for name in ("rl_em", "dar_tr"):
        phase = PhaseSettings(method=name, method_args={"trust_region": "forward_kl", "epsilon_alpha": 0.01})
        assert method_from_settings("rl", phase).needs.trust_region.divergence == ExactDivergence(categorical_kl)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rl__optimizer__name": "adamm"}, r"config\.rl\.optimizer\.name = 'adamm': did you mean 'adam"),
        ({"rl__optimizer__schedule": "cos"}, r"config\.rl\.optimizer\.schedule = 'cos'"),
        ({"rl__optimizer__learning_rate": -1.0}, r"config\.rl\.optimizer: learning rate = -1\.0"),
        ({"sft__optimizer__weight_decay": -1.0}, r"config\.sft\.optimizer: weight_decay = -1\.0"),
        ({"rl__value_learning_rate": -1.0}, r"config\.rl\.value_learning_rate: learning rate = -1\.0"),
        (
            {"rl__duals__temperature_learning_rate": -1.0},
            r"config\.rl\.duals\.temperature_learning_rate: learning rate",
        ),
        ({"rl__optimizer__warmup_steps": 10**6}, r"config\.rl\.optimizer: warmup_steps = 1000000"),
    ],
)
def test_optimizers_are_checked(changes, message):
    settings = settings_from_config(changed(**changes))
    with pytest.raises(ValueError, match=message):
        list(map(build_optimizers, settings.phases.values(), settings.phases))


def test_braces_of_a_template_and_sizes_beside_a_checkpoint_are_let_be():
    settings = settings_from_config(
        changed(data__prompt_template="{{{prompt}}}", model__path="x", model__hidden_size=33)
    )
    assert settings.data.prompt_template.format(prompt="p") == "{p}"


def test_a_dataset_has_one_completion_of_a_prompt():
    assert PhaseSettings(num_generations=8).samples_per_prompt == 8
    assert PhaseSettings(num_generations=8, source="scored").samples_per_prompt == 1


@pytest.mark.parametrize("arg", ["vmop", "vmpo,awr", "vmpo,fast"])
def test_a_config_arg_that_means_nothing_is_refused(arg):
    with pytest.raises(ValueError, match="expected one method of"):
        arithmetic.get_config(arg)
