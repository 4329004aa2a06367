"""Rows of pairs, prompt, chosen, rejected: what a batch holds of them, runs on them, and what is refused."""

import logging

import numpy as np
import pytest

from gempi_jax.llm import TooLong, load_tokenizer
from gempi_jax.llm.encoding import encode_demonstrations
from gempi_jax.llm.preferences import encode_preferences
from tests.cases import users

ANIMALS = ("cat", "dog", "cow", "pig")
ROWS = [{"prompt": f"The {animal} is", "chosen": " big.", "rejected": " small and red."} for animal in ANIMALS]
TURNS = [
    {name: [{"role": "user" if name == "prompt" else "assistant", "content": text}] for name, text in row.items()}
    for row in ROWS
]


def encode(tokenizer, rows, longest=64, policy=TooLong.ERROR):
    return encode_preferences(tokenizer, rows, longest, longest, policy, policy)


@pytest.mark.parametrize(("rows", "chat"), [(ROWS, None), (TURNS, "plain")])
def test_both_answers_are_the_demonstrations_that_they_would_be(words_model, rows, chat):
    tokenizer = load_tokenizer(words_model(chat))
    found = encode(tokenizer, rows)
    assert found.kept.tolist() == [0, 1, 2, 3]
    for place, name in enumerate(("chosen", "rejected")):
        alone = [{"prompt": row["prompt"], "completion": row[name]} for row in rows]
        expected = encode_demonstrations(tokenizer, alone, 64, 64)
        assert found.prompts == expected.prompts
        assert found.completions[place::2] == expected.completions
        assert found.learnt[place::2] == expected.learnt
        assert all(tokens[-1] == tokenizer.eos_token_id for tokens in found.completions)


def test_answers_follow_one_prompt_where_one_takes_a_token_of_it(pieces_model):
    # ": no" and "happy" go on with the token that the prompt ends in, or do not; the texts stay what they are.
    tokenizer = load_tokenizer(pieces_model(None))
    rows = [{"prompt": "The owl. ", "chosen": "It went home.", "rejected": "\n\nIt went."}]
    found = encode(tokenizer, rows)
    texts = [tokenizer.decode(found.prompts[0] + tokens[:-1]) for tokens in found.completions]
    assert texts == ["The owl. It went home.", "The owl. \n\nIt went."]
    assert all(all(learnt) for learnt in found.learnt)


def test_a_row_goes_where_one_answer_is_too_long(words_model):
    tokenizer = load_tokenizer(words_model())
    long = {**ROWS[1], "rejected": " small" * 30}
    found = encode(tokenizer, [ROWS[0], long, ROWS[2]], 16, TooLong.DROP)
    assert found.kept.tolist() == [0, 2]
    assert (found.num_dropped, found.num_truncated, len(found.completions)) == (1, 0, 4)
    cut = encode(tokenizer, [ROWS[0], long], 16, TooLong.TRUNCATE)
    assert (cut.num_dropped, cut.num_truncated, len(cut.completions[3])) == (0, 1, 16)
    with pytest.raises(ValueError, match="every one of the 1 rows has an answer of more than 16 tokens"):
        encode(tokenizer, [long], 16, TooLong.DROP)


@pytest.fixture
def config(words_model, tmp_path):
    def make(rows=ROWS, method="dpo", **changes):
        path = users.write_rows(tmp_path / "pairs.jsonl", rows)
        heldout = users.write_rows(tmp_path / "heldout.jsonl", [{"prompt": "The fox is"}])
        config = users.users_config(words_model("plain"), path, heldout, "rl")
        config.rl.method = method
        del config.rl.method_args
        config.rl.method_args = {}
        config.rl.update(
            {"source": "preferences", "num_generations": 1, "num_iterations": 3, "updates_per_epoch": 1, **changes}
        )
        config.rl.max_completion_length = 24
        return config

    return make


# Without a prompt it is what both begin with; TRL has both forms.
IMPLICIT = [{name: row["prompt"] + row[name] for name in ("chosen", "rejected")} for row in ROWS]


@pytest.mark.parametrize(
    ("method", "rows", "stream"),
    [("dpo", ROWS, False), ("dpo", IMPLICIT, True), ("beta_dpo", TURNS, False), ("exo", ROWS, True)],
)
def test_runs_on_files_of_pairs_prefer_what_was_chosen(config, tmp_path, read_metrics, method, rows, stream):
    settings = config(rows, method, optimizer={"learning_rate": 1e-2})
    settings.data.stream = stream
    users.start(settings, tmp_path / "run")
    found = [row for row in read_metrics(tmp_path / "run") if "loss" in row]
    # pi_theta is pi_ref before the first update: no margin.
    assert abs(found[0]["rewards/margins"]) < 1e-6
    assert found[-1]["rewards/margins"] > 1e-3
    assert found[-1]["rewards/accuracies"] == 1
    assert found[-1]["estep/flat_groups"] == 0
    assert found[-1]["data/dropped_rows"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "vmpo"}, r"config\.rl\.source = 'preferences': method 'vmpo' weighs completions by rewards"),
        (
            {"source": "scored"},
            r"method = 'dpo' learns from pairs: source 'scored' has one completion of each prompt; s",
        ),
        ({"source": "rollout", "num_generations": 1}, r"'dpo' learns from pairs: num_generations is 1; set num_gener"),
        ({"source": "demonstrations", "num_generations": 1}, r"config\.rl\.source = 'demonstrations': method 'dpo'"),
        ({"m_step_fraction": 0.5}, r"m_step_fraction = 0\.5: all prompts weigh the same"),
        (
            {"rows": [{"prompt": "The cat", "completion": " is."}]},
            r"have no rows with 'chosen' and 'rejected'; name the",
        ),
        ({"rows": [{**ROWS[0], "rejected": 3}]}, r"pairs\.jsonl:1: 'rejected' is 3; it has to be a string"),
    ],
)
def test_what_is_no_preference_is_refused_before_the_run(config, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        users.start(config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_answers_that_are_equal_are_counted_and_said(config, planned, words_model, caplog):
    rows = [ROWS[0], {**ROWS[1], "rejected": ROWS[1]["chosen"]}]
    with caplog.at_level(logging.WARNING):
        planned(
            words_model("plain"),
            rows,
            phases=("rl",),
            **{
                **{"rl.method": "dpo", "rl.method_args": {}, "rl.source": "preferences", "rl.num_generations": 1},
                **{"rl.updates_per_epoch": 1, "rl.max_completion_length": 24, "rl.batch_prompts": 2},
            },
        )
    assert "in 1 of 2 rows 'chosen' and 'rejected' are equal (first" in caplog.text


def test_a_batch_of_pairs_has_two_completions_of_rewards_one_and_zero(planned, words_model):
    plan, _ = planned(
        words_model("plain"),
        ROWS,
        phases=("rl",),
        **{
            **{"rl.method": "dpo", "rl.method_args": {}, "rl.source": "preferences", "rl.num_generations": 1},
            **{"rl.updates_per_epoch": 1, "rl.max_completion_length": 24},
        },
    )
    source = plan._plans[0].source
    prompts, index = source.prompts(0)
    batch, number = source.completions(prompts, index)
    assert batch.rewards.tolist() == [[1.0, 0.0]] * 4
    assert batch.completions.shape[:2] == (4, 2)
    assert number == batch.mask.sum() + prompts.lengths.sum()
    assert np.all(batch.mask.any(-1))
