"""Is the final number right?  GSM8K's verifier, for the ways in which models really write an answer."""

import functools
import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

_MAX_DIGITS = 60
"""Longer numbers are noise, and reading them could take for ever."""

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d+)?|(?<!\w)\.\d+)(?:[eE][+-]?\d{{1,2}}(?![\w.]))?"
# A minus is a sign only where it does not subtract: never behind a number, a word or a bracket.  A number never begins
# inside a word: m2 holds none.
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w)\]}%])[-+](?=[\d.$€£¥]))?(?:[$€£¥]\s?)?(?P<inner>(?<=[$€£¥])[-+])?(?<![^\W_])"
    rf"(?:(?P<whole>\d+)\s+(?P<top>\d+)\s?/\s?(?P<bottom>\d+)"
    rf"|(?P<numerator>{_DECIMAL})(?:\s?/\s?[$€£¥]?(?P<denominator>{_DECIMAL}))?)"
    r"\s?(?P<percent>%|per\s?cent\b)?"
)
_MARKED = re.compile(rf"####(?!#)[^\w\n.+-]*(?={_NUMBER.pattern})".replace("?P<", "?P<_"))
_ANSWER_IS = re.compile(r"\banswers?\b[^\d\n]{0,40}?(?:\bis\b|\bare\b|\bequals\b|:|=)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")


class Number(NamedTuple):
    """An exact number, and whether it was written with a percent sign."""

    value: Fraction
    percent: bool


def exact_match(prompts: Sequence, completions: Sequence, *, answer: Sequence, **_: Any) -> list[float | None]:
    """1 where the final number of a completion equals that of the gold answer, exactly; else 0.

    Args:
      prompts: not used.
      completions: texts, or role lists (then the content of the last message).
      answer: gold answers: numbers, or texts whose number is found as a completion's is (GSM8K's solutions, say).
        Where one holds no number, answers are compared as texts, without case and punctuation.  ``None``: no reward.
    """
    return [_matches(as_text(text), gold) for text, gold in zip(completions, answer, strict=True)]


def format_reward(prompts: Sequence, completions: Sequence, **_: Any) -> list[float]:
    """1 where a completion ends in ``#### number`` and holds no other ``####``; else 0."""
    return [float(_FORMAT.fullmatch(as_text(text)) is not None) for text in completions]


_FORMAT = re.compile(rf"[^#]*#### ?[-+]?[$€£¥]?{_DECIMAL}(?:/\d+)? ?%?\.?\s*", re.DOTALL)


def final_number(text: str) -> Number | None:
    r"""The number that a text gives as its answer; ``None`` where there is none.

    Looked for behind the first ``####`` that a number follows, then in the last ``\boxed{}``, then behind the last
    "answer is" or "answer:"; otherwise it is the last number.  Behind a marker, an equation counts as its right side.
    """
    text = _plain_notation(text)
    if marked := _MARKED.search(text):
        return _first_number(text, marked.end())
    if text.rstrip().endswith("####"):
        return None
    if boxed := _last_boxed(text):
        return _first_number(boxed, 0)
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return None
    markers = [marker.end() for marker in _ANSWER_IS.finditer(text, 0, numbers[-1].start())]
    return _first_number(text, markers[-1]) if markers else _read(numbers[-1])


def as_text(completion: Any) -> str:
    """A completion's text: itself, or the content of the last message of a role list."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"] if completion else ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())


def _matches(text: str, gold: Any) -> float | None:
    if gold is None:
        return None
    expected = _gold_number(str(gold))
    if expected is None:
        words = _final_words(str(gold))
        return float(words != "" and _final_words(text) == words)
    found = final_number(text)
    return float(found is not None and _equal(found, expected))


# Every gold answer is read once for all the samples of its prompt, and again in every epoch.
_gold_number = functools.lru_cache(maxsize=65536)(final_number)


def _equal(one: Number, other: Number) -> bool:
    """Equal as written (50 and 50%) or as meant (1/2 and 50%)."""
    if one.percent == other.percent or one.value == other.value:
        return one.value == other.value
    written, plain = (one, other) if one.percent else (other, one)
    return written.value == 100 * plain.value


def _plain_notation(text: str) -> str:
    """Typographic, Unicode and LaTeX ways of writing a number, reduced to those that the patterns know."""
    text = text.rpartition("</think>")[2]
    if text.isascii() and "\\" not in text and "^" not in text:
        return text
    text = re.sub(r"[²³¹⁰⁴-⁹]", "", text)  # exponents of units, which NFKC would turn into digits
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)
    text = re.sub(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))", ",", text)
    text = unicodedata.normalize("NFKC", text).replace("\u2044", "/")
    text = re.sub(r"[\u2212\u2013\u2010\u2011]", "-", text)
    text = text.replace("{,}", ",").replace("\\!", "").replace("\\,", " ").replace("\\$", "$").replace("\\%", "%")
    text = re.sub(r"(?<=[A-Za-z}])\^\{?\d+\}?", "", text)
    return re.sub(r"(?:(?<=\d)\s*)?\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}", r" \1/\2", text)


def _last_boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin = start + len("\\boxed{")
    depth = 1
    for position in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position]
    return text[begin:]


def _first_number(text: str, begin: int) -> Number | None:
    """The first number from ``begin``; where its sentence is an equation, the first behind the last ``=``."""
    first = _NUMBER.search(text, begin)
    if first is None:
        return None
    end = _SENTENCE_END.search(text, first.end())
    end = end.start() if end else len(text)
    right = text.rfind("=", first.end(), end)
    return _read((_NUMBER.search(text, right + 1, end) if right >= 0 else None) or first)


def _read(match: re.Match) -> Number | None:
    if len(match.group()) > _MAX_DIGITS:
        return None
    parts = {name: value.replace(",", "") for name, value in match.groupdict().items() if value}
    try:
        if "whole" in parts:
            value = Fraction(parts["whole"]) + Fraction(int(parts["top"]), int(parts["bottom"]))
        else:
            value = Fraction(parts["numerator"]) / Fraction(parts.get("denominator", "1"))
    except ZeroDivisionError:
        return None
    negative = "-" in (parts.get("sign"), parts.get("inner"))
    return Number(-value if negative else value, "percent" in parts)


def _final_words(text: str) -> str:
    """The answer of a text without numbers, without case, punctuation and articles."""
    text = text.rpartition("</think>")[2]
    if "####" in text:
        text = text.split("####", 1)[1]
    elif boxed := _last_boxed(text):
        text = boxed
    elif markers := list(_ANSWER_IS.finditer(text)):
        text = text[markers[-1].end() :]
    return " ".join(word for word in re.findall(r"\w+", text.casefold()) if word not in ("the", "a", "an", "text"))
