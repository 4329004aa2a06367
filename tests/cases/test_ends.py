"""Ends are one thing: what is learnt last, what ends rollouts and evaluations, and what the export says."""

import functools
import json
import logging

import jax
import numpy as np
import pytest
from transformers import GenerationConfig

from gempi_jax.llm import generate, load_pretrained
from gempi_jax.llm.stops import find_strings
from tests.cases import users

ASKED = [{"role": "user", "content": "Name the cat."}]
SAID = [{"role": "assistant", "content": "It is a cat."}]
PHASES = ("sft", "rl", "again")
ENDS = ("<|endoftext|>", "<|im_end|>")


@pytest.mark.parametrize("row", [{"messages": ASKED + SAID}, {"prompt": ASKED, "completion": SAID}])
def test_the_end_of_a_turn_ends_completions_here_and_in_the_export(pieces_model, planned, caplog, row):
    with caplog.at_level(logging.WARNING):
        plan, export = planned(pieces_model(), [row] * 4)
    assert "The chat template ends turns with '<|im_end|>'" in caplog.text
    assert "ends nothing" not in caplog.text
    tokenizer = load_pretrained(export).tokenizer
    ids = tokenizer.convert_tokens_to_ids(list(ENDS))
    assert plan._plans[0].source.learnt(1).tokens[0, 0].tolist()[-1] == ids[1]
    # transformers reads them from where it looks, and so does a run that goes on from there.
    assert GenerationConfig.from_pretrained(export).eos_token_id == ids
    assert load_pretrained(export).config.eos_ids == tuple(ids)


def test_plain_prompts_of_a_chat_model_end_as_its_files_say(pieces_model, planned):
    plan, export = planned(pieces_model(), [{"prompt": "The cat is", "completion": " big."}] * 4)
    (eos,) = plan.eos_ids
    assert json.loads((export / "generation_config.json").read_text())["eos_token_id"] == eos
    assert plan._plans[0].source.learnt(1).tokens[0, 0].tolist()[-1] == eos


def test_an_end_token_of_the_config_is_learnt_and_exported(words_model, planned):
    rows = [{"prompt": "The cat is", "completion": " big.<s>"}, {"prompt": "The cat is", "completion": " big."}] * 2
    plan, export = planned(words_model(), rows, **{"model.end_tokens": ("<s>",)})
    assert GenerationConfig.from_pretrained(export).eos_token_id == [2, 1]
    learnt = plan._plans[0].source.learnt(2)
    assert [row[length - 1] for row, length in zip(learnt.tokens[:, 0], learnt.lengths[:, 0], strict=True)] == [1, 2]


def test_a_template_that_ends_turns_with_nothing_is_said(tmp_path, planned, caplog):
    model = users.write_model(tmp_path / "model", users.words_tokenizer(), "plain")
    template = tmp_path / "endless.jinja"
    template.write_text(users.TEMPLATES["plain"].replace("{% if m['role'] == 'assistant' %}</s>{% endif %}", ""))
    with caplog.at_level(logging.WARNING):
        planned(model, [{"messages": ASKED + SAID}] * 3, **{"data.chat_template": str(template)})
    assert "config.sft: of the first 3 completions that it learns, 3 end in '.\\n', which ends nothing" in caplog.text
    caplog.clear()
    # Either of the remedies that are named is one.
    remedies = {"model.end_tokens": (".\n",)}, {"sft.stop_sequences": ("cat.",)}
    for remedy in remedies:
        planned(model, [{"messages": ASKED + SAID}] * 3, **{"data.chat_template": str(template)}, **remedy)
        assert "which ends nothing" not in caplog.text


def test_a_string_that_the_export_cannot_hold_is_said(pieces_model, planned, caplog):
    with caplog.at_level(logging.WARNING):
        planned(pieces_model(), [{"prompt": "The cat is"}] * 4, phases=("rl",), **{"rl.stop_sequences": ("\n\n",)})
    assert r"stop_sequences = ('\n\n',) end completions of this run alone" in caplog.text
    assert "rollouts do not end at" not in caplog.text


def test_rollouts_that_go_on_where_evaluations_end_are_said(pieces_model, planned, caplog):
    changes = {"again": users.users_config("", "", "").rl, "rl.stop_sequences": ("\n\n",)}
    with caplog.at_level(logging.WARNING):
        planned(pieces_model(), [{"prompt": "The cat is", "completion": " big."}] * 4, None, PHASES, **changes)
    said = [record.getMessage() for record in caplog.records if "rollouts do not end" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith(r"config.again: rollouts do not end at ('\n\n',), as evaluations do")


def test_rollouts_end_at_a_string_within_a_token_and_no_earlier(pieces_model):
    policy = load_pretrained(pieces_model())
    stops = find_strings(policy.tokenizer, ("e", "\n\n"))
    run = functools.partial(generate, policy.model, num_samples=64, max_new_tokens=24, eos_id=0, stops=stops)
    prompts = np.array([policy.tokenizer("The cat is")["input_ids"]])
    got = jax.jit(run)(policy.params, prompts, np.array([prompts.shape[1]]), jax.random.key(0))
    within = 0
    for tokens, length in zip(got.tokens[0].tolist(), got.lengths[0].tolist(), strict=True):
        before, text = (policy.tokenizer.decode(tokens[:end]) for end in (length - 1, length))
        found = [string in text for string in ("e", "\n\n")]
        assert not any(string in before for string in ("e", "\n\n"))
        assert any(found) or tokens[length - 1] == 0 or length == 24
        within += any(found) and not text.endswith(("e", "\n\n"))
    assert within > 0
