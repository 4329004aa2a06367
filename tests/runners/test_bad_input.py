"""Mistakes in data, rewards and models stop a run before any compute, and leave nothing behind."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.llm import arithmetic, gsm8k, stories
from experiments.launch import cpu_devices
from gempi_jax.llm import save_pretrained
from gempi_jax.llm.hf import Pretrained
from gempi_jax.models import Decoder, DecoderConfig
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.llm import run
from gempi_jax.runners.settings import MeshSettings
from gempi_jax.runners.tasks import load_rewards
from gempi_jax.training.writers import WorkdirError

ROWS = [{"question": f"What is {n} + {n}?", "answer": f"It is {2 * n}.\n#### {2 * n}"} for n in range(2, 42)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def config(tmp_path):
    """The quick GSM8K config on files of its format."""
    config = gsm8k.get_config("vmpo,quick")
    config.unlock()
    config.data.train_path = write(tmp_path / "train.jsonl", ROWS)
    config.data.heldout_path = write(tmp_path / "test.jsonl", ROWS[:8])
    return config


def refused(config, tmp_path, message):
    workdir = tmp_path / "run"
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(settings_from_config(config), workdir, config.to_dict())
    assert not workdir.exists()


def test_a_missing_file(config, tmp_path):
    config.data.train_path = str(tmp_path / "nowhere.jsonl")
    refused(config, tmp_path, r"nowhere\.jsonl")


def test_a_malformed_row_names_file_and_line(config, tmp_path):
    path = tmp_path / "train.jsonl"
    lines = path.read_text().splitlines()
    lines[6] = '{"question": "What is'
    path.write_text("\n".join(lines))
    refused(config, tmp_path, r"train\.jsonl.*7")


def test_a_missing_column_names_what_is_there(config, tmp_path):
    write(tmp_path / "train.jsonl", [{"qestion": row["question"], "answer": row["answer"]} for row in ROWS])
    refused(config, tmp_path, r"question.*qestion")


def test_an_empty_dataset(config, tmp_path):
    (tmp_path / "test.jsonl").write_text("")
    refused(config, tmp_path, r"test\.jsonl is empty")


def test_a_reward_whose_column_is_missing(config, tmp_path):
    config.data.columns = {"question": "prompt", "answer": ("solution", "completion")}
    refused(config, tmp_path, r"exact_match.*answer")


def test_files_for_a_task_that_reads_none(tmp_path):
    config = arithmetic.get_config("vmpo,quick")
    config.data.train_path = "x"
    refused(
        config, tmp_path, r"config\.data\.train_path = 'x': task 'arithmetic' makes its rows and reads no file; leave"
    )


def test_a_reward_of_a_file_without_its_function(config, tmp_path):
    config.reward_functions = ("own.py",)
    refused(config, tmp_path, r"'own\.py' names no function; write .* 'file\.py:function'")


def test_an_unknown_reward(config, tmp_path):
    config.rewards = {"exact_mach": 1.0}
    refused(config, tmp_path, r"config\.rewards = 'exact_mach': did you mean 'exact_match'")


def test_prompts_longer_than_the_policy_allows(config, tmp_path):
    config.data.long_prompts = "error"
    config.data.max_prompt_length = 4
    refused(config, tmp_path, r"longer than 4 tokens")


def test_more_positions_than_the_model_has(config, tmp_path):
    config.model.max_positions = 16
    refused(config, tmp_path, r"model's 16 positions")


def test_a_batch_that_the_devices_do_not_divide(config, tmp_path):
    config.mesh.data = 8
    refused(config, tmp_path, r"config\.rl\.batch_prompts = 4: must be a multiple of the 8 devices")


def test_a_batch_that_shrinks_on_several_devices(config, tmp_path):
    config.mesh.tensor = 2
    config.rl.shrink = (2,)
    refused(config, tmp_path, r"config\.rl\.shrink = \(2,\): is for one device")


def test_data_of_no_rows_say_which_setting_makes_them(tmp_path):
    config = arithmetic.get_config("vmpo,quick")
    config.data.num_heldout = 0
    refused(config, tmp_path, r"config\.data\.num_heldout = 0: nothing would judge the run")
    config.data.update({"num_heldout": 4, "num_train": 0})
    refused(config, tmp_path, r"config\.rl\.source = 'rollout': there are no training prompts; raise data\.num_train")


def test_lengths_and_vocabularies_that_cannot_be_name_their_settings(tmp_path):
    config = arithmetic.get_config("vmpo,quick")
    config.sft.max_completion_length = 3
    refused(
        config, tmp_path, r"config\.sft with .*max_completion_length = 3 \(data\.long_completions = 'error'\): .* 64 of"
    )
    config.sft.max_completion_length = 21
    config.data.max_prompt_length = 4
    refused(
        config, tmp_path, r"config\.sft with data\.max_prompt_length = 4 \(data\.long_prompts = 'drop'\).*none is left"
    )
    config.model.vocab_size = 10
    refused(config, tmp_path, r"config\.model\.vocab_size = 10: .*cannot hold")


def test_a_workdir_of_another_run_is_refused_before_the_data_are_read(config, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text('{"seed": 7}')
    config.data.train_path = str(tmp_path / "nowhere.jsonl")
    with pytest.raises(WorkdirError, match=r"holds another run; its config\.json differs in\n.*"):
        run(settings_from_config(config), workdir, config.to_dict())
    assert [path.name for path in workdir.iterdir()] == ["config.json"]


def test_rewards_of_files_have_their_weights(tmp_path):
    (tmp_path / "own.py").write_text("def reward(prompts, completions, **_):\n    return [2.0] * len(completions)\n")
    config = arithmetic.get_config("vmpo,quick")
    name = f"{tmp_path}/own.py:reward"
    config.rewards = {"exact_match": 0.0}
    for text, weight in ((name, 1.0), (f"0.5*{name}", 0.5)):
        config.reward_functions = (text,)
        specs = load_rewards(settings_from_config(config))
        assert [(spec.name, spec.weight) for spec in specs] == [("exact_match", 0.0), (name, weight)]
        assert specs[1].function(prompts=["p"], completions=["c"]) == [2.0]
    config.reward_functions = (f"half*{name}",)
    refused(config, tmp_path, r"config\.reward_functions = 'half.*: 'half' is no weight; write NAME, or WEIGHT\*NAME")


def test_a_mesh_of_more_devices_than_there_are(config, tmp_path):
    config.mesh.data = 1024
    refused(config, tmp_path, r"config\.mesh: .*1024 devices")


def test_a_command_makes_no_more_devices_of_one_processor_than_it_can_hold():
    assert cpu_devices(MeshSettings(data=4, fsdp=2)) == 8
    assert cpu_devices(MeshSettings(data=-1, fsdp=2)) == 1
    assert cpu_devices(MeshSettings(tensor=4096)) == 64


def test_a_model_that_is_not_there(tmp_path):
    config = stories.get_config("quick")
    config.model.path = str(tmp_path / "nowhere")
    refused(config, tmp_path, r"nowhere")


def test_a_model_without_its_tokenizer(tmp_path):
    decoder = Decoder(DecoderConfig(vocab_size=8, hidden_size=4, intermediate_size=4, num_layers=1, num_heads=1))
    shapes = jax.eval_shape(decoder.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    save_pretrained(tmp_path / "bare", Pretrained(decoder, params, None))
    config = stories.get_config("quick")
    config.model.path = str(tmp_path / "bare")
    refused(config, tmp_path, r"config\.model\.path = '.*bare' holds no tokenizer")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loader": "flex"}, r"config\.model\.loader = 'flex': did you mean 'flax'"),
        ({"loader": "flax"}, r"config\.model\.loader = 'flax': give config\.model\.path"),
        ({"loader": "flax", "path": "x", "dropout": 0.1}, r"config\.model\.dropout is of our decoder only"),
        ({"loader": "flax", "path": "x", "lora": {"rank": 2}}, r"config\.model\.lora is of our decoder only"),
        (
            {"lora": {"rank": 2, "targets": ("c_attn",)}},
            r"config\.model\.lora: .*'c_attn'.*choose one or more of q_proj",
        ),
        ({"lora": {"path": "nowhere"}}, r"nowhere.adapter_config\.json is missing"),
    ],
)
def test_a_policy_that_cannot_be(changes, message, tmp_path):
    config = arithmetic.get_config("vmpo,quick")
    config.model.dropout = 0.0
    config.model.update(changes)
    refused(config, tmp_path, message)


def test_a_stop_sequence_that_is_no_text_of_the_tokenizer(tmp_path):
    config = arithmetic.get_config("vmpo,quick")
    config.rl.stop_sequences = ("\u2603",)
    refused(config, tmp_path, r"config\.rl\.stop_sequences: '\u2603' is spelt by no tokens of this tokenizer")


def test_a_classifier_that_cannot_be(tmp_path):
    config = arithmetic.get_config("vmpo,quick")
    for name, message in [
        ("classifier:nowhere?labl=1", r"config\.rewards\['classifier.*\] = 'labl': did you mean 'label'"),
        ("classifier:nowhere?score=log", r"score = 'log': did you mean 'log"),
        ("classifier:nowhere?max_length=x", r"max_length = 'x' is no whole number"),
        ("classifier:nowhere?label=GOOD", r"sequence classifier nowhere: .*(no config\.json|no Flax classes)"),
    ]:
        config.rewards = {name: 1.0}
        refused(config, tmp_path, message)


def test_conversations_need_a_model_with_a_template_and_a_turn_to_learn(config, tmp_path):
    rows = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "no"}], "answer": "1"}]
    config.data.columns = {}
    config.data.train_path = config.data.heldout_path = write(tmp_path / "chat.jsonl", rows)
    refused(config, tmp_path, r"role lists: give a model whose tokenizer has a chat template")
    write(tmp_path / "chat.jsonl", [{"messages": rows[0]["messages"][:1], "answer": "1"}])
    refused(config, tmp_path, r"chat\.jsonl:1: 'messages' has no turn of an assistant")


def test_demonstrations_that_have_no_completion(config, tmp_path):
    config.data.columns = {"question": "prompt"}
    refused(config, tmp_path, r"config\.sft\.source = 'demonstrations'")


def test_an_unknown_baseline(tmp_path):
    config = arithmetic.get_config("vmpo,quick")
    config.rl.baseline = "group"
    refused(config, tmp_path, r"config\.rl\.baseline = 'group': did you mean 'group_mean'")
