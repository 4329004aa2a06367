"""Role lists as users have them: contents in parts, nulls of tables, tools as text."""

import pytest

from gempi_jax.llm.columns import DataError
from gempi_jax.llm.datasets import load_rows
from gempi_jax.llm.messages import template_options

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def loaded(**row):
    return load_rows([row], required=())[0]


def test_texts_of_parts_become_one_text_in_every_role_list():
    parts = [{"type": "text", "text": "Name ", "image_url": None}, {"type": "text", "text": "it."}]
    said = [{"role": "user", "content": parts}]
    row = loaded(prompt=said, chosen=said, messages=said, other=said)
    plain = [{"role": "user", "content": "Name it."}]
    assert row == {"prompt": plain, "chosen": plain, "messages": plain, "other": said}
    assert loaded(prompt=[{"role": "user", "content": []}])["prompt"][0]["content"] == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [{"type": "text", "text": "a"}, {"type": "image_url"}],
            r"message 1 \(user\): its content has a part of type",
        ),
        (
            [{"type": "text", "text": None}],
            r"row 0 \(from 0\): 'messages', message 1 .*has the part \{'type': 'text'",
        ),
        ([3], r"has the part 3"),
        (3, r"message 1 \(user\): its content is 3; it has to be a string, or a list of text parts"),
    ],
)
def test_other_parts_are_errors_that_name_row_and_message(content, message):
    with pytest.raises(DataError, match=message):
        loaded(messages=[{"role": "system", "content": "a"}, {"role": "user", "content": content}])


def test_nulls_that_a_table_fills_in_are_as_good_as_absent():
    call = {"function": {"name": "weather", "arguments": {"city": "Rome", "day": None}}}
    filled = [
        {"role": "user", "content": "?", "tool_calls": None, "name": None},
        {"role": "assistant", "tool_calls": [call]},
    ]
    assert loaded(messages=filled)["messages"] == [
        {"role": "user", "content": "?"},
        {
            "role": "assistant",
            "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Rome"}}}],
            "content": None,
        },
    ]


def test_tools_are_a_list_or_its_json():
    assert template_options({}) == template_options({"tools": None, "chat_template_kwargs": None}) == {}
    filled = {**WEATHER, "strict": None}
    assert template_options({"tools": [filled]}) == {"tools": [WEATHER]}
    row = {"tools": '[{"name": "weather"}]', "chat_template_kwargs": {"enable_thinking": False}}
    assert template_options(row) == {"tools": [{"name": "weather"}], "enable_thinking": False}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tools": "weather"}, r"row 0 \(from 0\): 'tools' is 'weather'; as a text it has to be JSON"),
        ({"tools": {"name": "weather"}}, r"'tools' is .*; it has to be a list of JSON schemas"),
        ({"chat_template_kwargs": "no"}, r"'chat_template_kwargs' is 'no'; it has to be an object"),
    ],
)
def test_other_tools_are_errors_that_name_the_row(row, message):
    with pytest.raises(DataError, match=message):
        loaded(prompt="a", **row)
