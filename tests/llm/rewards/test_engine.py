"""Reward functions are called as TRL calls them, and whatever is wrong with one is named."""

from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempi_jax.llm.rewards.engine import compute_rewards
from gempi_jax.llm.rewards.signature import check_columns
from gempi_jax.llm.rewards.specs import RewardError, RewardSpec

PROMPTS, COMPLETIONS = ["p0", "p1", "p2"], ["a", "bb", "ccc"]


def compute(function, weight=1.0, **columns):
    return compute_rewards([RewardSpec("mine", function, weight)], PROMPTS, COMPLETIONS, columns)


def returning(*values):
    return lambda prompts, completions, **_: list(values)


def test_weighted_sum_by_hand():
    # 2 * length - 0.5 * answer: 2 * 1 - 0.5 * 4 = 0, 2 * 2 - 0.5 * 5 = 1.5; the last has no second reward: 2 * 3 = 6.
    def length(completions, **_):
        return [len(text) for text in completions]

    def answer_or_none(prompts, completions, answer):
        return answer

    specs = [RewardSpec("length", length, 2.0), RewardSpec("answer", answer_or_none, -0.5)]
    result = compute_rewards(specs, PROMPTS, COMPLETIONS, {"answer": [4, 5, None], "unused": [0, 0, 0]})
    np.testing.assert_array_equal(result.total, np.float32([0.0, 1.5, 6.0]))
    assert result.total.dtype == np.float32
    np.testing.assert_array_equal(result.by_name["length"], [1, 2, 3])
    np.testing.assert_array_equal(result.by_name["answer"], [4, 5, np.nan])
    assert result.finite.all()


@given(st.lists(st.floats(-1e6, 1e6) | st.none(), min_size=3, max_size=3), st.floats(0.1, 10))
def test_none_is_left_out_and_never_zero_times_something(values, weight):
    specs = [RewardSpec("some", returning(*values), weight), RewardSpec("one", returning(1, 1, 1))]
    result = compute_rewards(specs, PROMPTS, COMPLETIONS, {})
    expected = [1.0 if value is None else weight * value + 1.0 for value in values]
    np.testing.assert_allclose(result.total, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(np.isnan(result.by_name["some"]), [value is None for value in values])


def test_numbers_of_every_library_count():
    values = [True, np.float32(2), jnp.float32(3), Fraction(1, 4), np.int64(5), np.array(6.0)]
    result = compute_rewards([RewardSpec("n", returning(*values))], ["p"] * 6, ["c"] * 6, {})
    np.testing.assert_array_equal(result.total, [1, 2, 3, 0.25, 5, 6])
    for whole in (np.arange(3.0), jnp.arange(3.0), (0, 1, 2)):
        np.testing.assert_array_equal(compute(lambda prompts, completions, w=whole: w).total, [0, 1, 2])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_what_is_not_finite_is_kept_and_flagged(bad):
    result = compute(returning(1.0, bad, 2.0))
    np.testing.assert_array_equal(result.finite, [True, False, True])
    assert not np.isfinite(result.total[1])
    np.testing.assert_array_equal(result.total[[0, 2]], [1, 2])


def test_a_function_of_weight_zero_is_only_logged():
    specs = [RewardSpec("one", returning(1, 1, 1)), RewardSpec("log", returning(float("nan"), 5, None), 0.0)]
    result = compute_rewards(specs, PROMPTS, COMPLETIONS, {})
    np.testing.assert_array_equal(result.total, [1, 1, 1])
    np.testing.assert_array_equal(result.by_name["log"], [np.nan, 5, np.nan])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (returning(1, 2), r"reward 'mine': .* returned 2 values for 3 completions; return one for each"),
        (lambda prompts, completions: 1.0, r"'mine': .* returned 1.0, a float; return a list"),
        (lambda prompts, completions: None, r"'mine': .* returned None, a NoneType; return a list"),
        (lambda prompts, completions: "abc", r"'mine': .* returned 'abc', a str; return a list"),
        (returning(1, "2", 3), r"'mine': .* returned '2', a str, for sample 1 \('bb'\); return a float"),
        (returning(1, [2], 3), r"'mine': .* returned \[2\], a list, for sample 1 \('bb'\)"),
        (returning(1, 2j, 3), r"'mine': .* a complex, for sample 1"),
        (returning(1, None, 3), r"no reward function applies to sample 1 \('bb'\): mine returned None"),
    ],
)
def test_what_is_not_one_number_each_is_an_error(function, message):
    with pytest.raises(RewardError, match=message):
        compute(function)


def test_a_function_that_raises_is_named_with_the_sample():
    def divides(completions, **_):
        return [1 / (len(text) - 2) for text in completions]

    with pytest.raises(
        RewardError, match=r"'mine': .*divides raised ZeroDivisionError: .* at sample 1 \('bb'\)"
    ) as error:
        compute(divides)
    assert isinstance(error.value.__cause__, ZeroDivisionError)

    def needs_few(completions, **_):
        if len(completions) > 1:
            raise RuntimeError("too many")
        return [1.0]

    with pytest.raises(RewardError, match="for the 3 samples together, not for any alone"):
        compute(needs_few)


def test_a_coroutine_says_what_to_do_with_it():
    async def waits(completions, **_):
        return [1.0] * len(completions)

    with pytest.raises(RewardError, match=r"waits is async; name a function that calls asyncio\.run on it"):
        compute(waits)


def test_columns_of_another_length_are_an_error():
    with pytest.raises(RewardError, match=r"'answer' has 2 values for 3 completions; repeat each row"):
        compute(returning(1, 2, 3), answer=[1, 2])


def test_functions_that_change_their_arguments_do_not_reach_the_next():
    def pops(completions, **_):
        return [len(completions.pop(0)) for _ in range(len(completions))]

    specs = [RewardSpec("pops", pops), RewardSpec("again", pops)]
    np.testing.assert_array_equal(compute_rewards(specs, PROMPTS, COMPLETIONS, {}).total, [2, 4, 6])


def test_missing_columns_are_found_before_anything_runs():
    def needs(prompts, completions, *, answer, level=1, **_):
        raise AssertionError("not called")

    check_columns([RewardSpec("mine", needs)], ["answer", "question"])
    with pytest.raises(
        RewardError, match=r"'mine': .*needs needs the column 'answer'.* has answers, question; the nearest"
    ):
        check_columns([RewardSpec("mine", needs)], ["question", "answers"])
    with pytest.raises(RewardError, match="no other columns"):
        check_columns([RewardSpec("mine", needs)], [])


def test_signatures_that_do_not_fit():
    with pytest.raises(RewardError, match="takes no completions"):
        check_columns([RewardSpec("mine", lambda prompts: [1.0])], [])
    with pytest.raises(RewardError, match="needs the column 'texts'"):
        check_columns([RewardSpec("mine", lambda texts, **_: [1.0])], ["answer"])
    check_columns([RewardSpec("builtin", max)], [])  # tells no signature: left to the trial


def test_specs_that_mean_nothing():
    with pytest.raises(RewardError, match="no reward function has a weight"):
        compute_rewards([], PROMPTS, COMPLETIONS, {})
    with pytest.raises(RewardError, match="two reward functions are called 'mine'"):
        check_columns([RewardSpec("mine", returning(1)), RewardSpec("mine", returning(2))], [])
    with pytest.raises(RewardError, match="weight nan is not finite"):
        RewardSpec("mine", returning(1), float("nan"))
