"""Openings of children's stories, generated: prompts for a model that was pretrained on such stories."""

import itertools
import random

_HEROES = (
    ("a little girl named Lily", "She"), ("a little boy named Tim", "He"), ("a little girl named Mia", "She"),
    ("a little boy named Ben", "He"), ("a small dog named Spot", "He"), ("a cat named Kitty", "She"),
    ("a big bear", "He"), ("a little bird", "She"), ("a kind old man", "He"), ("a happy frog", "He"),
)  # fmt: skip
_WISHES = (
    "loved to play in the park", "wanted to find a new friend", "had a red ball", "liked to help others",
    "wanted to see the sea", "had a big box", "loved to run and jump", "lost a toy", "was very hungry",
    "wanted to fly",
)  # fmt: skip
_TURNS = (
    "One day,", "One day, it started to rain.", "One day, a friend came to play.", "One sunny day,",
    "But then,", "One day, there was a loud noise.",
)  # fmt: skip

_SHARES = {"train": 0.7, "tuning": 0.1, "heldout": 0.2}


def story_rows(split: str, size: int, seed: int) -> list[dict[str, str]]:
    """Openings as rows with a ``prompt``; no opening belongs to two splits.

    Args:
      split: ``"train"``, ``"tuning"`` (to choose settings) or ``"heldout"`` (for final figures).
      size: number of rows; there are 420, 60 and 120, and more than that repeat.
      seed: of their order.

    Raises:
      ValueError: for an unknown split or a negative size.
    """
    if split not in _SHARES:
        raise ValueError(f"story_rows: there is no split {split!r}; choose one of {', '.join(_SHARES)}.")
    if size < 0:
        raise ValueError(f"story_rows: size is {size}; give a number of rows, 0 or more.")
    openings = _openings(split)
    random.Random(f"{split}/{seed}").shuffle(openings)
    return [{"prompt": openings[i % len(openings)]} for i in range(size)]


def _openings(split: str) -> list[str]:
    openings = [
        f"Once upon a time, there was {hero}. {pronoun} {wish}. {turn}"
        for (hero, pronoun), wish, turn in itertools.product(_HEROES, _WISHES, _TURNS)
    ]
    random.Random("the same parts for every seed").shuffle(openings)
    bounds = [round(len(openings) * share) for share in itertools.accumulate(_SHARES.values(), initial=0.0)]
    index = list(_SHARES).index(split)
    return openings[bounds[index] : bounds[index + 1]]
