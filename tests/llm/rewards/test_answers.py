"""The verifier: right for every gold answer of GSM8K and for the ways in which models write one."""

import itertools
import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempi_jax.llm.rewards.answers import exact_match, final_number, format_reward
from gempi_jax.llm.synthetic import arithmetic_rows


def score(completion, answer):
    return exact_match(["?"], [completion], answer=[answer], other=[None])[0]


RIGHT = [
    ("The answer is $1,080.", "1080"),
    ("The answer is $1,080.", "#### 1,080"),
    ("**18**", "18"),
    ("**Answer: 18**", "18"),
    ("**Answer:** $18", "18"),
    ("18.0", "18"),
    ("18.00 dollars", "18"),
    ("18.", "18"),
    ("-3", "-3"),
    ("The temperature is −3 degrees.", "-3"),
    ("She loses -$3", "-3"),
    ("She loses $-3.", "-3"),
    ("1/2", "0.5"),
    ("1/2", "1/2"),
    ("½", "1/2"),
    ("2½ hours", "2.5"),
    ("2 1/2 hours", "2.5"),
    (r"\frac{1}{2}", "0.5"),
    (r"2\dfrac{1}{2}", "2.5"),
    ("#### 18", "18"),
    ("9+9=18 #### 18", "18"),
    ("####18", "18"),
    ("#### $18", "18"),
    ("#### **18**", "18"),
    ("#### -18", "-18"),
    ("#### .5", "1/2"),
    ("#### 9 + 9 = 18", "18"),
    (r"\boxed{18}", "18"),
    (r"The answer is $\boxed{18}$.", "18"),
    (r"so \boxed{\$1{,}080} in total, after 3 days", "1080"),
    (r"\boxed{x = \text{18 apples}}", "18"),
    (r"\[ \boxed{\frac{3}{4}} \]", "0.75"),
    (r"In total $18$.", "18"),
    ("He needs 18 apples, i.e. 12 + 6 = 18!", "18"),
    ("The answer is 12 + 6 = 18.", "18"),
    ("The answer is:\n\n18", "18"),
    ("The answer is 18. I checked it 2 times.", "18"),
    ("First the answer is 5. No, the final answer is 18 (not 5).", "18"),
    ("Final Answer: The final answer is 18", "18"),
    ("Her total is 18 m²", "18"),
    ("Her total is 18 cm^2.", "18"),
    ("He drinks 18 bottles of H2O", "18"),
    ("50%", "50"),
    ("50%", "0.5"),
    ("0.5", "50%"),
    ("50 percent", "50%"),
    ("1,080,000", "1080000"),
    ("1 080 000".replace(" ", "\u202f"), "1080000"),
    ("1.5e3", "1500"),
    ("x=18", "18"),
    ("- 18 apples", "18"),
    ("<think>#### 5</think>#### 18", "18"),
    ("#### Step one\nIt is 9 + 9.\n#### Final answer\n18", "18"),
    ("#### 18\n\nQuestion: next one\n#### 24", "18"),
    ("The answer is Paris.", "paris"),
    ("#### True", "true"),
    ([{"role": "assistant", "content": "#### 18"}], "18"),
    ([{"role": "assistant", "content": [{"type": "text", "text": "#### 18"}]}], "18"),
    ("18", 18),
    ("18.5", 18.5),
]

WRONG = [
    ("", "18"),
    ("   ", "18"),
    ("I do not know.", "18"),
    ("####", "18"),
    ("9+9=18 ####", "18"),
    ("#### ", "18"),
    ("#### 17", "18"),
    ("18 #### 17", "18"),
    ("3", "-3"),
    ("-3", "3"),
    ("1.08", "1,080"),
    ("18.0000001", "18"),
    ("0.33", "1/3"),
    ("5", "50%"),
    ("5000%", "0.5"),
    ("1/0", "0"),
    ("118", "18"),
    ("1" * 5000, "18"),
    ("1/" + "0" * 5000, "18"),
    ("m18", "18"),
    ("The answer is London.", "paris"),
    ("", "paris"),
    ([], "18"),
]


@pytest.mark.parametrize(("completion", "answer"), RIGHT)
def test_right(completion, answer):
    assert score(completion, answer) == 1.0


@pytest.mark.parametrize(("completion", "answer"), WRONG)
def test_wrong(completion, answer):
    assert score(completion, answer) == 0.0


def test_every_gold_answer_of_gsm8k(shared_data):
    rows = [json.loads(line) for line in (shared_data / "gsm8k" / "train.jsonl").read_text().splitlines()]
    answers = [row["answer"] for row in rows]
    assert len(answers) == 7473
    assert exact_match(answers, answers, answer=answers) == [1.0] * 7473
    # Shifted by one, a score is right only where neighbours happen to agree, which the raw last lines tell.
    some, shifted = answers[:1000], answers[1:1001]
    plain = [Fraction(text.split("#### ")[1].replace(",", "")) for text in answers[:1001]]
    expected = [float(one == other) for one, other in itertools.pairwise(plain)]
    assert exact_match(some, some, answer=shifted) == expected
    # A solution without its last line is judged by the number that it ends with, which is nearly always the answer.
    without = [text.split("####")[0] for text in some]
    assert sum(exact_match(without, without, answer=some)) > 940


def test_every_generated_problem():
    rows = arithmetic_rows("train", 500, 0)
    completions, answers = [row["completion"] for row in rows], [row["answer"] for row in rows]
    assert exact_match(completions, completions, answer=answers) == [1.0] * 500
    assert format_reward(completions, completions) == [1.0] * 500


@given(
    st.fractions(max_denominator=1000).filter(lambda f: abs(f) < 10**9),
    st.sampled_from(["#### {}", "is {}.", "**{}**"]),
)
def test_fractions_are_exact(fraction, form):
    assert final_number(form.format(fraction)).value == fraction
    assert score(form.format(fraction), str(fraction + Fraction(1, 10**6))) == 0.0


@given(
    st.integers(-(10**12), 10**12),
    st.integers(0, 3),
    st.sampled_from(["", "$", "€"]),
    st.sampled_from(["", ".", " apples"]),
)
def test_integers_in_every_dress(number, zeros, currency, end):
    sign = "-" if number < 0 else ""
    dressed = f"The answer is {sign}{currency}{abs(number):,}{'.' + '0' * zeros if zeros else ''}{end}"
    assert score(dressed, str(number)) == 1.0
    assert score(dressed, str(number + 1)) == 0.0


@given(st.text())
def test_no_text_breaks_it(text):
    assert score(text, "18") in (0.0, 1.0)
    assert score("18", text) in (0.0, 1.0)


def test_a_row_without_gold_has_no_reward():
    assert score("18", None) is None


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("9 #### 18", 1.0),
        ("#### -1,080.5\n", 1.0),
        ("18", 0.0),
        ("#### 1 #### 2", 0.0),
        ("#### 18 apples", 0.0),
        ("", 0.0),
    ],
)
def test_format(completion, expected):
    assert format_reward(["?"], [completion]) == [expected]
