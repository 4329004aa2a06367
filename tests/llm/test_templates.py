"""Chat templates: null contents, tools, several templates by name; what a template leaves out is said."""

import logging

import pytest
import transformers

from gempi_jax.llm.chat import render_completion, render_conversation, render_prompt, turn_end
from gempi_jax.llm.columns import DataError
from gempi_jax.llm.templates import Template, choose_template
from gempi_jax.llm.tokenizers import train_tokenizer

PLAIN = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% if m['role'] == 'assistant' %}<eos>{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
ADDS = PLAIN.replace("{{ m['role'] }}]{{ m['content'] }}", "{{ m['role'] + ']' + m['content'] }}")
# Writes calls where there is no content, as some that know tools do.
ASKS = (
    "{% for m in messages %}[{{ m['role'] }}]{% if m['content'] is none %}{% for c in m['tool_calls'] %}"
    "<call>{{ c['function']['name'] }}{% endfor %}{% else %}{{ m['content'] }}{% endif %}"
    "{% if m['role'] == 'assistant' %}<eos>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TOOLS = "{% if tools %}[tools]{{ tools | tojson }}\n{% endif %}" + PLAIN
TOKENIZER = train_tokenizer(["[user]hello[assistant]good day"], 320, largest_number=20)
CALL = {"function": {"name": "weather", "arguments": {}}}
USER = {"role": "user", "content": "hi"}


def tokenizer(template):
    TOKENIZER.chat_template = template
    return TOKENIZER


def learnt(template, messages, **options):
    text, spans = render_conversation(tokenizer(template), messages, options)
    return [text[begin:end] for begin, end in spans]


@pytest.mark.parametrize("template", [PLAIN, ADDS])
@pytest.mark.parametrize("silent", [{"content": None}, {}, {"content": ""}, {"content": []}])
def test_a_turn_of_which_nothing_is_written_is_refused(template, silent):
    messages = [USER, {"role": "assistant", **silent, "tool_calls": [CALL]}]
    with pytest.raises(DataError, match=r"message 1 \(assistant\) has no content, only tool_calls, and the chat templ"):
        render_conversation(tokenizer(template), messages)
    with pytest.raises(DataError, match=r"message 1 \(assistant\) has no content"):
        render_completion(tokenizer(template), messages[:1], messages[1:])
    for nothing in ({"role": "user"}, {"role": "user", "content": None}):
        with pytest.raises(DataError, match=r"message 0 \(user\) has no content, and the chat template"):
            render_prompt(tokenizer(template), [nothing])


def test_templates_for_tools_see_the_null_that_they_ask_for():
    called = {"role": "assistant", "tool_calls": [CALL, CALL]}
    if int(transformers.__version__.split(".")[0]) >= 5:
        # It takes nulls out before a template sees them, so that this one writes nothing: said, not learnt.
        with pytest.raises(DataError, match=r"has no content, only tool_calls, and the chat template writes nothing"):
            learnt(ASKS, [USER, called])
    else:
        assert learnt(ASKS, [USER, called]) == ["<call>weather<call>weather<eos>"]
    # A word of the text is no null.
    assert learnt(PLAIN, [USER, {"role": "assistant", "content": "None"}]) == ["None<eos>"]
    # What is said empty on purpose is learnt as it is.
    assert learnt(PLAIN, [USER, {"role": "assistant", "content": ""}]) == ["<eos>"]


def test_contents_in_parts_are_read():
    parts = [{"type": "text", "text": "good "}, {"type": "text", "text": "day"}]
    assert learnt(PLAIN, [USER, {"role": "assistant", "content": parts}]) == ["good day<eos>"]


def test_an_assistant_that_speaks_first_says_what_its_header_says():
    assert learnt(PLAIN, [{"role": "assistant", "content": "a"}, USER]) == ["a<eos>"]


def test_tools_are_written_or_their_absence_is_said(caplog):
    tools = [{"name": "weather"}]
    assert render_prompt(tokenizer(TOOLS), [USER], {"tools": tools}).startswith('[tools][{"name": "weather"}]\n[user]')
    assert not caplog.records
    called = [USER, {"role": "assistant", "content": "wait", "tool_calls": [CALL]}]
    with caplog.at_level(logging.WARNING):
        assert learnt(PLAIN + "{# a #}", called, tools=tools) == ["wait<eos>"]
        learnt(PLAIN + "{# a #}", called, tools=tools)
    assert [record.args for record in caplog.records] == [("tools",), ("tool_calls",)]


def test_several_templates_by_name():
    named = {"default": PLAIN, "tool_use": TOOLS}
    assert learnt(named, [USER, {"role": "assistant", "content": "day"}]) == ["day<eos>"]
    assert render_prompt(tokenizer(named), [USER], {"tools": [{"name": "weather"}]}).startswith("[tools]")
    with pytest.raises(DataError, match=r"multiple chat templates.*Choose one by its name"):
        Template(tokenizer({"one": PLAIN, "other": TOOLS}), None)


def test_one_template_is_chosen_by_name_or_from_a_file(tmp_path):
    chat = tokenizer({"default": PLAIN, "tool_use": TOOLS})
    choose_template(chat, "tool_use")
    assert chat.chat_template == TOOLS
    file = tmp_path / "chat_template.jinja"
    file.write_text(PLAIN)
    choose_template(chat, str(file))
    assert chat.chat_template == PLAIN
    with pytest.raises(ValueError, match=r"'tool_use' is neither a file nor .*; its templates are default"):
        choose_template(chat, "tool_use")
    with pytest.raises(ValueError, match="it has none"):
        choose_template(tokenizer(None), "x")


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (PLAIN, "<eos>"),
        (PLAIN.replace("<eos>", " <bos> <eos>"), "<bos>"),
        (PLAIN.replace("<eos>", "END"), None),
        ("{{ raise_exception('never') }}", None),
    ],
)
def test_the_token_that_ends_a_turn(template, end):
    assert turn_end(tokenizer(template)) == (end and TOKENIZER.convert_tokens_to_ids(end))
