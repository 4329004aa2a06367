"""Rewards for the continuation of a children's story: that it ends well, that it ends at all, that it tells something.

Each part is a reward function of its own with values in [0, 1], so that each has its own metric.
"""

import re
from collections.abc import Sequence
from typing import Any

from gempi_jax.llm.rewards.answers import as_text
from gempi_jax.llm.rewards.specs import RewardSpec


def _lexicon(words: str) -> frozenset[str]:
    return frozenset(words.split())


_HAPPY = _lexicon(
    """
    happy happily glad joy joyful proud smile smiled smiles smiling laugh laughed laughing love loved loves fun hug
    hugged hugs friend friends thank thanked together safe enjoyed cheered wonderful great best nice kind excited
    """
)
_SAD = _lexicon(
    """
    sad sadly cry cried crying scared afraid angry mad hurt died lost alone sorry upset bad mean broke broken fell
    """
)
_NOT = _lexicon(
    """
    not no never didn't wasn't weren't don't couldn't nobody nothing
    """
)
_END_WORDS = 30
_FULL_LENGTH_WORDS = 20
_NGRAM = 3
_SENTENCE_END = re.compile(r"""[.!?]["'”’)]*\s*$""")


def happy_ending(prompts: Sequence, completions: Sequence, **_: Any) -> list[float]:
    """1 - 2^-n, with n the different happy words among the last 30 less the sad ones; 0 where n is not positive.

    The first word is worth most and repeating one nothing, so that there is little to gain from a list of happy words.
    A word behind a negation counts as its opposite.
    """
    return [_happiness(_words(as_text(text))[-_END_WORDS:]) for text in completions]


def finished(prompts: Sequence, completions: Sequence, *, ended: Sequence[bool] | None = None, **_: Any) -> list[float]:
    """1 where a story of 20 words or more ends within its length, 1/2 where it is cut at the end of a sentence, else 0.

    Args:
      prompts: not used.
      completions: texts.
      ended: whether the sampler produced the end token; without it, the end of a sentence counts as the end.
    """
    ends = [True] * len(completions) if ended is None else ended
    return [_finish(as_text(text), bool(end)) for text, end in zip(completions, ends, strict=True)]


def no_repetition(prompts: Sequence, completions: Sequence, **_: Any) -> list[float]:
    """The share of different word triples, 0 at one half and below; short of 20 words, in proportion to the length."""
    return [_variety(_words(as_text(text))) for text in completions]


def story_reward(
    prompts: Sequence, completions: Sequence, *, ended: Sequence[bool] | None = None, **_: Any
) -> list[float]:
    """The three parts in one number in [0, 1]: ``no_repetition * (happy_ending + finished) / 2``.

    A product, because a story that only repeats itself has earned nothing, however happy it is.
    """
    parts = (
        happy_ending(prompts, completions),
        finished(prompts, completions, ended=ended),
        no_repetition(prompts, completions),
    )
    return [different * (happy + end) / 2 for happy, end, different in zip(*parts, strict=True)]


def story_specs() -> tuple[RewardSpec, ...]:
    """``story_reward``, with each of its parts logged beside it at weight 0."""
    return (
        RewardSpec("story", story_reward),
        RewardSpec("happy_ending", happy_ending, 0.0),
        RewardSpec("finished", finished, 0.0),
        RewardSpec("no_repetition", no_repetition, 0.0),
    )


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower().replace("’", "'"))


def _happiness(words: list[str]) -> float:
    happy, sad = set(), set()
    for previous, word in zip(["", *words], words, strict=False):
        negated = previous in _NOT
        if word in _HAPPY:
            (sad if negated else happy).add(word)
        elif word in _SAD:
            (happy if negated else sad).add(word)
    return 1.0 - 0.5 ** max(0, len(happy) - len(sad))


def _finish(text: str, ended: bool) -> float:
    if len(_words(text)) < _FULL_LENGTH_WORDS or not _SENTENCE_END.search(text):
        return 0.0
    return 1.0 if ended else 0.5


def _variety(words: list[str]) -> float:
    triples = list(zip(*(words[i:] for i in range(_NGRAM)), strict=False))
    if not triples:
        return 0.0
    distinct = max(0.0, 2.0 * len(set(triples)) / len(triples) - 1.0)
    return distinct * min(1.0, len(words) / _FULL_LENGTH_WORDS)
