"""Completions of role lists reach reward functions as TRL's documentation has it: a list with one message."""

import pytest

from gempi_jax.llm.rewards import (
    RewardError,
    RewardSpec,
    compute_rewards,
    exact_match,
    format_reward,
    load_reward,
    preflight,
    story_specs,
)
from gempi_jax.llm.rewards.classifier import completion_alone, prompt_and_completion

ASKED = [{"role": "user", "content": "Name the cat."}]


def contains(completions, answer, **_):
    return [float(gold in message[0]["content"]) for message, gold in zip(completions, answer, strict=True)]


def test_a_reward_in_the_manner_of_trl_reads_messages():
    seen = {}

    def spy(prompts, completions):
        seen.update(prompts=prompts, completions=completions)
        return [0.0] * len(prompts)

    begun = [*ASKED, {"role": "assistant", "content": "It is"}]
    prompts, completions = [ASKED, "Name it.", begun], ["a cat.", "a dog.", " a cow."]
    compute_rewards([RewardSpec("spy", spy)], prompts, completions, {})
    said = [{"role": "assistant", "content": "a cat."}], "a dog.", [{"role": "assistant", "content": "It is a cow."}]
    assert seen == {"prompts": [ASKED, "Name it.", ASKED], "completions": list(said)}
    # The caller's own stay as they were.
    assert len(begun) == 2


def test_the_trial_hands_messages_too():
    rows = [{"prompt": ASKED, "answer": "cat"}, {"prompt": ASKED, "answer": "dog"}]
    assert preflight([RewardSpec("contains", contains)], rows).gold == {"contains": 1.0}
    rows[0]["completion"] = rows[1]["completion"] = [{"role": "assistant", "content": "A cat, no dog."}]
    assert preflight([RewardSpec("contains", contains)], rows).gold == {"contains": 1.0}
    # One that only calls a tool says nothing.
    rows[0]["completion"] = rows[1]["completion"] = [{"role": "assistant", "content": None, "tool_calls": [{}]}]
    assert preflight([RewardSpec("contains", contains)], rows).gold == {"contains": 0.0}


def test_our_own_rewards_read_both():
    specs = [RewardSpec("exact", exact_match), RewardSpec("format", format_reward), *story_specs()]
    text, columns = "One and one, so she said. #### 2", {"answer": ["2"]}
    lists = compute_rewards(specs, [ASKED], [text], columns)
    assert lists.by_name == compute_rewards(specs, ["Name the cat."], [text], columns).by_name
    assert lists.by_name["exact"] == lists.by_name["format"] == 1.0


def test_a_classifier_reads_the_message_alone():
    said = [{"role": "assistant", "content": "A cat."}]
    assert completion_alone(ASKED, said) == completion_alone("Name it.", "A cat.") == "A cat."
    with pytest.raises(RewardError, match="cannot read a role list as the prompt"):
        prompt_and_completion(ASKED, said)


def test_a_function_of_a_file_reads_messages(tmp_path):
    (tmp_path / "own.py").write_text(
        "def first(completions, **_):\n    return [len(completion[0]['content']) for completion in completions]\n"
    )
    spec = RewardSpec("first", load_reward(f"{tmp_path / 'own.py'}:first"))
    assert compute_rewards([spec], [ASKED], ["abc"], {}).total == [3.0]
