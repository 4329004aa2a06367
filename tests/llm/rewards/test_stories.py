"""The story reward rises with what it names, stays in [0, 1] and cannot be had by repeating."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempi_jax.llm.rewards import compute_rewards, finished, happy_ending, no_repetition, story_reward, story_specs

GOOD = (
    " She saw a big red ball in the park. She asked the boy if she could play too. The boy said yes. They threw the "
    "ball up and down until the sun went away. They were happy and hugged. They became best friends."
)


def one(function, text, **columns):
    (value,) = function(["Once"], [text], **{name: [column] for name, column in columns.items()})
    return value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0.0),
        ("He saw a tree.", 0.0),
        ("He was happy.", 0.5),
        ("He was happy and happy and happy.", 0.5),
        ("He was happy. They played together.", 0.75),
        ("He was happy but she was sad.", 0.0),
        ("He was not happy.", 0.0),
        ("She didn't cry.", 0.5),
        ("He didn’t cry.", 0.5),
        ("He was happy. " + "Then he saw a tree. " * 8, 0.0),
    ],
)
def test_happy_endings_by_hand(text, expected):
    assert one(happy_ending, text) == expected


def test_the_end_counts_as_far_as_it_is_known():
    assert one(finished, GOOD, ended=True) == 1.0
    assert one(finished, GOOD, ended=False) == 0.5
    assert one(finished, GOOD) == 1.0
    assert one(finished, GOOD + ' "Bye!"', ended=True) == 1.0
    assert one(finished, GOOD + " And", ended=False) == 0.0
    assert one(finished, GOOD + " And", ended=True) == 0.0
    assert one(finished, "The end.", ended=True) == 0.0


def test_repetition_by_hand():
    # "the big dog" ten times: 28 triples, 3 of them different: 2 * 3 / 28 - 1 < 0.
    assert one(no_repetition, "The big dog. " * 10) == 0.0
    assert one(no_repetition, GOOD) == 1.0
    assert one(no_repetition, "") == one(no_repetition, "two words") == 0.0
    # 5 words, 3 different triples: 5 / 20.
    assert one(no_repetition, "He saw a big dog.") == 0.25
    # a b c a b c a b: triples abc bca cab abc bca cab: 3 of 6 different, so 0 whatever the length.
    assert one(no_repetition, "a b c a b c a b") == 0.0


def test_a_good_story_beats_the_ways_to_cheat():
    good = one(story_reward, GOOD, ended=True)
    # best, friends, happy, hugged: (1 - 2^-4 + 1) / 2.
    assert good == pytest.approx((15 / 16 + 1) / 2)
    for cheat in ("happy", "happy friends love hugged.", "They were happy. " * 20, "", GOOD[:-1] + " and they and"):
        assert one(story_reward, cheat, ended=True) < good - 0.3


WORDS = st.sampled_from(["happy", "sad", "the", "dog", ".", "not", "friends"])


@given(st.text() | st.lists(WORDS, max_size=60).map(" ".join))
def test_all_values_are_in_the_unit_interval(text):
    result = compute_rewards(story_specs(), ["Once"], [text], {"ended": [True]})
    assert all(0 <= values[0] <= 1 for values in (result.total, *result.by_name.values()))
    assert set(result.by_name) == {"story", "happy_ending", "finished", "no_repetition"}
