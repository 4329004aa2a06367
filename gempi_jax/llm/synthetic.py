"""Arithmetic word problems, generated: small enough to learn in minutes, real enough to need more than one step.

A problem is a template filled with three operands, names and things.  Its solution is written one step at a time and
ends as GSM8K's do::

    Maya has 12 pens, finds 7 more and loses 5. How many pens are left?
     12+7=19 19-5=14 #### 14

Every template uses all three operands, and each ordered triple of operands is for training, for tuning or held out, in
all templates.  So no held-out problem is a training problem with other words; single steps, 7*11=77, occur in both, and
that is what there is to learn.
"""

import dataclasses
import functools
import itertools
import random

SMALLEST_OPERAND, LARGEST_OPERAND = 2, 12
LARGEST_NUMBER = LARGEST_OPERAND * LARGEST_OPERAND + LARGEST_OPERAND
"""No operand, intermediate or final result is larger; none is negative or fractional."""

_SHARES: dict[str, float] = {"train": 0.8, "tuning": 0.08, "heldout": 0.12}
_SEEN = {"demonstrations": "train"}
"""Demonstrations and RL prompts are both training data: they draw from the same operands."""
_NAMES = ("Ana", "Ben", "Maya", "Omar", "Lena", "Tom", "Zoe", "Sam")
_THINGS = ("pens", "books", "cards", "apples", "coins", "shells", "cakes", "eggs")


@dataclasses.dataclass(frozen=True)
class _Template:
    """A text with fields ``{a} {b} {c} {name} {other} {things}`` and its solution.

    Attributes:
      chain: the operations, applied strictly from left to right: ``"a+b*c"`` means (a + b) * c.
      text: the problem as it is asked; shows each of the three operands once, in order.
    """

    chain: str
    text: str


_TEMPLATES = (
    _Template("a+b-c", "{name} has {a} {things}, finds {b} more and loses {c}. How many {things} are left?"),
    _Template("a+b+c", "{name} finds {a} {things}, {other} finds {b} and Max finds {c}. How many {things} in all?"),
    _Template("a-b+c", "{name} has {a} {things}, gives {other} {b} and buys {c}. How many {things} are left?"),
    _Template("a-b-c", "{name} has {a} {things}, gives {other} {b} and loses {c}. How many {things} are left?"),
    _Template("a*b+c", "{name} buys {a} boxes of {b} {things} and finds {c} more. How many {things} in all?"),
    _Template("a*b-c", "{name} buys {a} boxes of {b} {things} and loses {c}. How many {things} are left?"),
    _Template("a+b*c", "{name} makes {a} {things} and {other} makes {b} each day. How many {things} in {c} days?"),
    _Template("a-b*c", "{name} makes {a} {things} and sells {b} each day. How many {things} are left in {c} days?"),
    _Template("a*b/c", "{name} has {a} boxes of {b} {things} for {c} friends. How many {things} for each?"),
    _Template("a*b+a-c", "{name} has {a} {things}, {other} {b} times as many. They lose {c}. How many are left?"),
)

NUM_TEMPLATES = len(_TEMPLATES)


def arithmetic_rows(split: str, size: int, seed: int) -> list[dict[str, str]]:
    """Problems with their worked solutions, balanced over the templates.

    The first rows of a longer list are the shorter list of the same split and seed.  Pairs of template and operands
    repeat only after all of the split were used.

    Args:
      split: ``"demonstrations"`` (for SFT), ``"train"`` (for RL), ``"tuning"`` (to choose settings) or ``"heldout"``
        (for final figures).
      size: number of rows.
      seed: chooses order, names and things; the operands that belong to a split do not depend on it.

    Returns:
      Rows with the columns ``prompt``, ``completion`` (the gold solution, with its leading space) and ``answer``.

    Raises:
      ValueError: for an unknown split or a negative size.
    """
    if size < 0:
        raise ValueError(f"arithmetic_rows: size is {size}; give a number of rows, 0 or more.")
    stream = random.Random(f"{split}/{seed}")
    operands = [_endless(stream, _solvable(template, split)) for template in _TEMPLATES]
    order = _endless(stream, tuple(range(NUM_TEMPLATES)))
    return [_row(_TEMPLATES[i], next(operands[i]), stream) for i in itertools.islice(order, size)]


@functools.cache
def split_operands(split: str) -> tuple[tuple[int, int, int], ...]:
    """The ordered operand triples of a split; training, tuning and held-out cover all and share none."""
    split = _SEEN.get(split, split)
    if split not in _SHARES:
        valid = ", ".join([*_SEEN, *_SHARES])
        raise ValueError(f"arithmetic_rows: there is no split {split!r}; choose one of {valid}.")
    values = range(SMALLEST_OPERAND, LARGEST_OPERAND + 1)
    triples = list(itertools.product(values, repeat=3))
    random.Random("the same parts for every seed").shuffle(triples)
    bounds = [round(len(triples) * share) for share in itertools.accumulate(_SHARES.values(), initial=0.0)]
    index = list(_SHARES).index(split)
    return tuple(sorted(triples[bounds[index] : bounds[index + 1]]))


def _solution(chain: str, operands: tuple[int, int, int]) -> tuple[list[str], int] | None:
    """Steps and result; ``None`` where a step leaves the integers 0 .. LARGEST_NUMBER."""
    numbers = dict(zip("abc", operands, strict=True))
    steps, value = [], numbers[chain[0]]
    for operation, name in zip(chain[1::2], chain[2::2], strict=True):
        left, right = value, numbers[name]
        if operation == "/" and left % right:
            return None
        value = {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[operation]
        if not 0 <= value <= LARGEST_NUMBER:
            return None
        steps.append(f"{left}{operation}{right}={value}")
    return steps, value


@functools.cache
def _solvable(template: _Template, split: str) -> tuple[tuple[int, int, int], ...]:
    return tuple(operands for operands in split_operands(split) if _solution(template.chain, operands))


def _endless(stream: random.Random, items: tuple):
    """All items in random order, then all again in another."""
    while items:
        yield from stream.sample(items, len(items))


def _row(template: _Template, operands: tuple[int, int, int], stream: random.Random) -> dict[str, str]:
    steps, result = _solution(template.chain, operands)
    name, other = stream.sample(_NAMES, 2)
    fields = dict(zip("abc", operands, strict=True), name=name, other=other, things=stream.choice(_THINGS))
    return {
        "prompt": template.text.format(**fields),
        "completion": f" {' '.join(steps)} #### {result}",
        "answer": str(result),
    }
