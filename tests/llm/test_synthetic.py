"""Generated problems: right, bounded, varied, and apart from split to split."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempi_jax.llm.synthetic import (
    LARGEST_NUMBER,
    LARGEST_OPERAND,
    NUM_TEMPLATES,
    SMALLEST_OPERAND,
    arithmetic_rows,
    split_operands,
)

SPLITS = ("demonstrations", "train", "tuning", "heldout")
APART = ("train", "tuning", "heldout")


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def shape(prompt: str) -> str:
    """The prompt without its numbers, names and things, near enough to count templates."""
    words = re.findall(r"[a-z]+", re.sub(r"[A-Z][a-z]+", "", prompt))
    return " ".join(w for w in words if not re.fullmatch(r"pens|books|cards|apples|coins|shells|cakes|eggs", w))


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(APART, 2)))
def test_splits_share_no_operands(one, other):
    # Read back from the prompts themselves, so that nothing but what a model sees is trusted.
    ones = {numbers(row["prompt"]) for row in arithmetic_rows(one, 3000, seed=0)}
    others = {numbers(row["prompt"]) for row in arithmetic_rows(other, 3000, seed=1)}
    assert ones
    assert others
    assert not ones & others


def test_demonstrations_are_training_problems():
    assert split_operands("demonstrations") == split_operands("train")
    one, other = arithmetic_rows("demonstrations", 50, 0), arithmetic_rows("train", 50, 0)
    assert one != other


def test_splits_cover_every_triple_once():
    triples = [triple for split in APART for triple in split_operands(split)]
    values = range(SMALLEST_OPERAND, LARGEST_OPERAND + 1)
    assert sorted(triples) == sorted(itertools.product(values, repeat=3))


@given(seed=st.integers(0, 2**31), split=st.sampled_from(SPLITS))
def test_every_step_is_true_and_uses_what_the_problem_says(seed, split):
    for row in arithmetic_rows(split, 20, seed):
        *steps, marker, result = row["completion"].split()
        known = set(numbers(row["prompt"]))
        assert len(numbers(row["prompt"])) == 3
        assert len(steps) >= 2
        for step in steps:
            left, operation, right, value = re.fullmatch(r"(\d+)([-+*/])(\d+)=(\d+)", step).groups()
            assert {int(left), int(right)} <= known
            assert eval(f"{left}{operation}{right}") == int(value)
            assert 0 <= int(value) <= LARGEST_NUMBER
            known.add(int(value))
        assert marker == "####"
        assert result == row["answer"] == value


def test_a_known_problem_by_hand():
    # (a + b) * c, not a + (b * c): what is made on one day, then over all days.
    rows = [
        row for row in arithmetic_rows("train", 200, 0) if "makes" in row["prompt"] and "and sells" not in row["prompt"]
    ]
    a, b, c = numbers(rows[0]["prompt"])
    assert rows[0]["completion"] == f" {a}+{b}={a + b} {a + b}*{c}={(a + b) * c} #### {(a + b) * c}"


def test_rows_are_reproducible_prefixes_and_differ_between_seeds():
    assert arithmetic_rows("train", 50, 3) == arithmetic_rows("train", 80, 3)[:50]
    assert arithmetic_rows("train", 50, 3) != arithmetic_rows("train", 50, 4)
    assert arithmetic_rows("train", 0, 3) == []


def test_templates_are_balanced_and_texts_vary():
    rows = arithmetic_rows("heldout", 40 * NUM_TEMPLATES, 0)
    counts = {key: len(list(group)) for key, group in itertools.groupby(sorted(shape(r["prompt"]) for r in rows))}
    assert list(counts.values()) == [40] * NUM_TEMPLATES
    assert len({row["prompt"].split()[0] for row in rows}) >= 8
    assert len({row["prompt"] for row in rows}) > 0.9 * len(rows)


def test_bad_arguments_name_the_fix():
    with pytest.raises(ValueError, match=r"no split 'test'; choose one of demonstrations, train, tuning, heldout"):
        split_operands("test")
    with pytest.raises(ValueError, match="size is -1"):
        arithmetic_rows("train", -1, 0)
