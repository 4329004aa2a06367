"""Conversations as users have them: calls of tools without content, parts, several templates, prompts beside them."""

import logging

import numpy as np
import pytest

from gempi_jax.llm import Completions
from tests.cases import users

ANIMALS = ("cat", "dog", "cow", "pig")
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def turn(role, content):
    return {"role": role, "content": content}


def called(**content):
    """What the assistant says when it asks a tool."""
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    return {"role": "assistant", **content, "tool_calls": [call]}


SAID = [{"messages": [turn("user", f"Name the {a}."), turn("assistant", f"It is a {a}.")]} for a in ANIMALS]


def learnt(run):
    """The first row: its prompt, and the tokens that carry loss, as text."""
    plan, _ = run
    source, tokenizer = plan._plans[0].source, plan.start.pretrained.tokenizer
    prompts = source.take(np.arange(1))
    batch, _ = source.completions(prompts, np.arange(1))
    tokens = batch.completions[0, 0][batch.mask[0, 0]]
    return tokenizer.decode(prompts.tokens[0, : prompts.lengths[0]]), tokenizer.decode(tokens)


@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": ""}])
def test_a_turn_that_only_calls_a_tool_is_learnt_as_the_template_writes_it_or_not_at_all(words_model, planned, content):
    rows = [{"messages": [turn("user", "Hi."), called(**content)]}] * 4
    between = [{"messages": [*rows[0]["messages"], turn("tool", "sun"), turn("assistant", "Sun.")]}] * 2
    for train, heldout in ((rows, SAID), (between, SAID), (SAID, between)):
        with pytest.raises(ValueError, match=r"\d\.jsonl:1: message 1 \(assistant\) has no content, only tool_calls"):
            planned(words_model("plain"), train, heldout)
    prompt, text = learnt(planned(words_model("tools"), rows))
    assert '<call>{"name": "weather"' in text
    assert "None" not in prompt + text


def test_texts_in_parts_are_read_and_learnt(words_model, planned):
    def in_parts(content):
        return [{"type": "text", "text": content[:5]}, {"type": "text", "text": content[5:]}]

    parts = [{"messages": [turn(m["role"], in_parts(m["content"])) for m in row["messages"]]} for row in SAID]
    assert learnt(planned(words_model("plain"), parts)) == learnt(planned(words_model("plain"), SAID))
    seen = [{"messages": [turn("user", [{"type": "image", "url": "x"}]), *SAID[0]["messages"][1:]]}]
    with pytest.raises(ValueError, match=r"0\.jsonl:5: 'messages', message 0 \(user\): .* a part of type 'image'"):
        planned(words_model("plain"), SAID + seen)


def test_tools_are_given_to_the_template_or_their_loss_is_said(words_model, planned, caplog):
    rows = [{"messages": [turn("user", "Hi."), called(content=None)], "tools": TOOLS}] * 4
    prompt, text = learnt(planned(words_model("tools"), rows, **{"data.max_prompt_length": 150}))
    assert prompt.startswith('[tools] [{"type": "function", "function": {"name": "weather"')
    assert "<call>" in text
    with caplog.at_level(logging.WARNING):
        planned(words_model("plain"), [{**row, "tools": TOOLS} for row in SAID])
    assert "The chat template writes nothing of the data's 'tools'" in caplog.text


def test_a_prompt_beside_a_conversation_is_not_what_is_read(words_model, planned):
    beside = [{"prompt": "Name it.", "prompt_id": str(i), **row} for i, row in enumerate(SAID)]
    assert learnt(planned(words_model("plain"), beside)) == learnt(planned(words_model("plain"), SAID))
    assert "It is a cat." in learnt(planned(words_model("plain"), beside))[1]
    rollout = planned(words_model("plain"), beside, phases=("rl",))[0]._plans[0].source
    assert rollout.rows[0]["prompt"] == SAID[0]["messages"][:1]


def test_of_several_templates_the_default_is_taken_or_the_one_that_is_named(words_model, planned, tmp_path):
    model = users.write_model(tmp_path / "model", users.words_tokenizer(), "plain")
    tokenizer = users.words_tokenizer()
    tokenizer.chat_template = {"default": users.TEMPLATES["plain"], "other": users.TEMPLATES["trim"]}
    tokenizer.save_pretrained(model)
    assert learnt(planned(model, SAID)) == learnt(planned(words_model("plain"), SAID))
    assert learnt(planned(model, SAID, **{"data.chat_template": "other"})) == learnt(planned(words_model("trim"), SAID))
    with pytest.raises(ValueError, match=r"config\.data\.chat_template: 'othr' is neither a file nor the name of a "):
        planned(model, SAID, **{"data.chat_template": "othr"})


def test_a_reward_as_trl_documents_it_reads_the_message(words_model, planned, tmp_path):
    rows = [{"prompt": row["messages"][:1], "answer": a} for row, a in zip(SAID, ANIMALS, strict=True)]
    (tmp_path / "own.py").write_text(
        "def contains(prompts, completions, answer, **_):\n"
        "    assert all(prompt[-1]['role'] == 'user' for prompt in prompts)\n"
        "    contents = [completion[0]['content'] for completion in completions]\n"
        "    return [float(gold in text) for text, gold in zip(contents, answer)]\n"
    )
    own = f"{tmp_path / 'own.py'}:contains"
    plan, _ = planned(words_model("plain"), rows, phases=("rl",), reward_functions=(own,))
    source, tokenizer = plan._plans[0].source, plan.start.pretrained.tokenizer
    written = [tokenizer(f" a {word}.</s>", add_special_tokens=False)["input_ids"] for word in ("cat", "dog")]
    width = max(map(len, written))
    tokens = np.array([[row + [0] * (width - len(row)) for row in written]], np.int32)
    lengths = np.array([list(map(len, written))], np.int32)
    nothing = np.zeros(tokens.shape, np.float32)
    rewarded = source.rewards(source.take(np.arange(1)), Completions(tokens, lengths, nothing, nothing), strict=True)
    assert rewarded.metrics["rewards/no_repetition/mean"] >= 0
    assert rewarded.metrics[f"rewards/{own}/mean"] == 0.5
