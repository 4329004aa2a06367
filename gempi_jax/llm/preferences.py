"""From rows of preferences to tokens: two answers behind one prompt, each encoded as one text with it."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from gempi_jax.llm.chat import Turns
from gempi_jax.llm.encoding import Demonstrations, encode_turns_of
from gempi_jax.llm.lengths import TooLong, fit_completions, fit_prompts

ANSWERS = ("chosen", "rejected")
"""The columns of a pair, the better one first."""


def encode_preferences(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    max_prompt_length: int,
    max_completion_length: int,
    long_prompts: TooLong = TooLong.DROP,
    long_completions: TooLong = TooLong.DROP,
    *,
    end_ids: Collection[int] = (),
) -> Demonstrations:
    """Token ids of rows with ``prompt``, ``chosen`` and ``rejected`` (strings or role lists): demonstrations of both.

    Where one answer takes a token of the prompt to itself, across the seam, the other answer gets it, too, in front:
    both follow the same prompt.  A row goes where one of its answers is too long.

    Returns:
      ``completions`` and ``learnt`` hold two entries for each row that is left, the chosen one first.

    Raises:
      DataError, ValueError: as :func:`gempi_jax.llm.encoding.encode_demonstrations`.
    """
    texts = [_with_answer(row, name) for row in rows for name in ANSWERS]
    turns = encode_turns_of(tokenizer, texts, end_ids)
    pairs = [_behind_one_prompt(*pair) for pair in zip(turns[::2], turns[1::2], strict=True)]
    answers = [turn for pair in pairs for turn in pair]
    fitted = fit_completions([turn.completion for turn in answers], max_completion_length, long_completions)
    tokens = dict(zip(fitted.kept.tolist(), fitted.tokens, strict=True))
    whole = [i for i in range(len(rows)) if 2 * i in tokens and 2 * i + 1 in tokens]
    if rows and not whole:
        raise ValueError(
            f"every one of the {len(rows)} rows has an answer of more than {max_completion_length} tokens, so none is "
            "left; raise max_length or choose TooLong.TRUNCATE."
        )
    prompts = fit_prompts(tokenizer, [pairs[i][0].prompt for i in whole], max_prompt_length, long_prompts)
    kept = [whole[i] for i in prompts.kept]
    places = [place for i in kept for place in (2 * i, 2 * i + 1)]
    cut = sum(len(tokens[2 * i + j]) < len(answers[2 * i + j].completion) for i in kept for j in (0, 1))
    return Demonstrations(
        prompts.tokens,
        [tokens[place] for place in places],
        [answers[place].learnt[: len(tokens[place])] for place in places],
        np.array([pairs[i][0].straddles for i in kept], bool),
        np.asarray(kept, int),
        len(rows) - len(kept),
        prompts.num_truncated + cut,
    )


def _with_answer(row: dict[str, Any], name: str) -> dict[str, Any]:
    """A demonstration of one of a row's answers."""
    rest = {key: value for key, value in row.items() if key not in ANSWERS}
    return rest | {"completion": row[name]}


def _behind_one_prompt(*pair: Turns) -> list[Turns]:
    """Both answers behind what their prompts have in common; what is left of a prompt is learnt with its answer."""
    first, second = (turn.prompt for turn in pair)
    shared = next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
    straddles = any(turn.straddles for turn in pair)
    return [
        Turns(
            turn.prompt[:shared],
            [*turn.prompt[shared:], *turn.completion],
            [*[True] * len(turn.prompt[shared:]), *turn.learnt],
            straddles,
        )
        for turn in pair
    ]
