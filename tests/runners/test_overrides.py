"""Settings on the command line: found by name, read by type, and what names no setting says where one is."""

import pytest

from configs.llm import arithmetic
from gempi_jax.runners.literals import unescape
from gempi_jax.runners.overrides import read_overrides

CONFIG = arithmetic.get_config("vmpo,quick").to_dict()


def read(*arguments):
    return {".".join(override.path): override.value for override in read_overrides(arguments, CONFIG)}


def test_texts_mean_the_same_in_every_setting():
    # A line break, not a backslash and an n, in a text and in a tuple of texts.
    assert read(r"--config.data.prompt_template=Q: {prompt}\nA:") == {"data.prompt_template": "Q: {prompt}\nA:"}
    assert read(r"--config.rl.stop_sequences=('\n\n',)") == {"rl.stop_sequences": ("\n\n",)}
    assert read(r"--config.rl.stop_sequences=\n\n") == {"rl.stop_sequences": ("\n\n",)}
    assert unescape(r"a\\n\tb") == "a\\n\tb"
    with pytest.raises(ValueError, match=r"\\d means nothing here; write a backslash of the text itself twice"):
        read(r"--config.data.prompt_template=\d {prompt}")


def test_values_are_read_by_their_types():
    assert read("--config.seed=3", "--config.rl.optimizer.learning_rate", "1e-3", "--config.data.stream") == {
        "seed": 3,
        "rl.optimizer.learning_rate": 1e-3,
        "data.stream": True,
    }
    assert read("--noconfig.data.stream") == {"data.stream": False}
    with pytest.raises(ValueError, match=r"--config\.seed=x: must be a whole number, not 'x'"):
        read("--config.seed=x")


def test_columns_are_given_one_by_one_or_together():
    assert read("--config.data.columns.question=prompt") == {"data.columns.question": "prompt"}
    assert read("--config.data.columns={'question': 'prompt'}") == {"data.columns": {"question": "prompt"}}
    with pytest.raises(
        ValueError, match=r"--config\.data\.columns=question: is a section; give one setting of it, or a"
    ):
        read("--config.data.columns=question")


def test_the_last_counts_and_single_values_of_a_tuple_add_up():
    assert read("--config.seed=1", "--config.seed=2") == {"seed": 2}
    assert read("--config.phases=sft", "--config.phases=rl") == {"phases": ("sft", "rl")}
    assert read("--config.phases=('sft',)", "--config.phases=('rl',)") == {"phases": ("rl",)}
    assert read("--config.phases=") == {"phases": ()}
    assert read("--config.rewards['finished']=1") == {"rewards.finished": 1.0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--config.optimizer.x=1", r"config has no 'optimizer'; did you mean config\.rl\.optimizer"),
        ("--config.data.path=a", r"config\.data has no 'path'; did you mean config\.model\.path"),
        (
            "--config.rl.learning_rate=1",
            r"config\.rl has no 'learning_rate'; did you mean .*rl\.optimizer\.learning_rate",
        ),
        ("--config.data.train_pth=a", r"did you mean config\.data\.train_path\? Valid: chat_template, columns"),
        ("--config.seed.x=1", r"config\.seed is a setting, no section; it has no 'x'"),
        ("--config.epsilon_eta=1", r"did you mean config\.rl\.method_args\.epsilon_eta\?"),
        ("--learning_rate=1", r"unknown; did you mean --config\.rl\.optimizer\.learning_rate"),
        ("--workdirs=a", r"unknown; did you mean --workdir\?"),
        ("seed=1", r"settings are given as --config\.key=value"),
    ],
)
def test_what_names_no_setting_says_what_was_typed_and_where_one_is(given, message):
    with pytest.raises(ValueError, match=message) as error:
        read(given)
    assert str(error.value).startswith(given)
