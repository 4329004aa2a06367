"""Conversions between TRL's forms: a whole is its prompt followed by its completion, for strings and role lists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempi_jax.llm.columns import DataError
from gempi_jax.llm.conversions import (
    extract_prompt,
    preferred,
    to_implicit_prompt,
    to_language_modelling,
    to_prompt,
    to_prompt_completion,
    to_scored,
    unpair,
)

USER, YES, NO = (
    {"role": "user", "content": "?"},
    {"role": "assistant", "content": "yes"},
    {"role": "assistant", "content": "no"},
)
STRINGS = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green.", "id": 1}
ROLES = {"prompt": [USER], "chosen": [YES], "rejected": [NO], "id": 1}


@pytest.mark.parametrize(
    ("row", "whole"), [(STRINGS, {"text": "The sky is blue."}), (ROLES, {"messages": [USER, YES]})]
)
def test_preferences_to_everything(row, whole):
    demonstration = {"prompt": row["prompt"], "completion": row["chosen"], "id": 1}
    other = {"prompt": row["prompt"], "completion": row["rejected"], "id": 1}
    assert to_prompt_completion(row) == demonstration
    assert to_prompt(row) == {"prompt": row["prompt"], "id": 1}
    assert to_language_modelling(row) == {**whole, "id": 1}
    assert unpair([row]) == [{**demonstration, "label": True}, {**other, "label": False}]
    assert preferred(unpair([row])) == [demonstration]
    assert to_scored(unpair([row])) == [{**demonstration, "reward": 1.0}, {**other, "reward": 0.0}]
    assert extract_prompt(to_implicit_prompt(row)) == row
    assert to_prompt(to_implicit_prompt(row)) == {"prompt": row["prompt"], "id": 1}
    assert to_prompt_completion(to_implicit_prompt(row)) == demonstration


def test_conversations_split_at_the_last_turn_of_the_assistant():
    row = {"messages": [USER, YES, USER, NO], "id": 1}
    assert to_prompt_completion(row) == {"prompt": [USER, YES, USER], "completion": [NO], "id": 1}
    assert to_prompt(row) == {"prompt": [USER, YES, USER], "id": 1}
    assert to_language_modelling(to_prompt_completion(row)) == row
    # What follows the last turn of the assistant is no part of what is learnt.
    assert to_prompt_completion({"messages": [USER, YES, USER]}) == {"prompt": [USER], "completion": [YES]}


def test_a_text_is_all_completion():
    assert to_prompt_completion({"text": "abc"}) == {"prompt": "", "completion": "abc"}
    assert to_language_modelling({"text": "abc", "id": 1}) == {"text": "abc", "id": 1}


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is"),
        ("The sky is blue.", "The sky is black.", "The sky is"),  # not "The sky is bl"
        ("Q?\n\nAssistant: Yes", "Q?\n\nAssistant: Yet", "Q?\n\nAssistant:"),
        ("Q?\n\nAssistant:Yes", "Q?\n\nAssistant:No", "Q?\n\nAssistant:"),
        ("Say it. One.", "Say it. One. Two.", "Say it. One."),
    ],
)
def test_implicit_prompts_by_hand(chosen, rejected, prompt):
    row = extract_prompt({"chosen": chosen, "rejected": rejected})
    assert row == {"prompt": prompt, "chosen": chosen[len(prompt) :], "rejected": rejected[len(prompt) :]}


@given(st.text("ab .", max_size=12), st.text("ab .", max_size=6), st.text("ab .", max_size=6))
def test_nothing_is_lost_by_extraction(shared, chosen, rejected):
    row = {"chosen": "x " + shared + chosen, "rejected": "x " + shared + rejected}
    assert to_implicit_prompt(extract_prompt(row)) == row


def test_what_has_no_meaning_is_named():
    with pytest.raises(DataError, match="do not begin alike"):
        extract_prompt({"chosen": "yes", "rejected": "no"})
    with pytest.raises(DataError, match="no column 'rejected'; there are 'chosen'"):
        to_prompt({"chosen": "yes"})
    with pytest.raises(DataError, match="no column 'completion'"):
        to_prompt_completion({"prompt": "a"})
    with pytest.raises(DataError, match="no turn of an assistant behind another"):
        to_prompt_completion({"messages": [USER]})
    with pytest.raises(DataError, match="the prompt is a str but its answer a list"):
        to_language_modelling({"prompt": "a", "completion": [YES]})
    with pytest.raises(DataError, match="no column 'label'"):
        preferred([{"prompt": "a", "completion": "b"}])
