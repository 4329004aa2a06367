"""From one of TRL's dataset forms to another, row by row; columns that a conversion does not name are kept.

=====================  =====================================================================
language modelling     ``text`` or ``messages``
prompts                ``prompt``
demonstrations         ``prompt, completion``
preferences            ``prompt, chosen, rejected``; implicit prompt: ``chosen, rejected``
unpaired preferences   ``prompt, completion, label``
=====================  =====================================================================

Strings and role lists convert alike: for both, a whole is its prompt followed by its completion.
"""

import itertools
import re
from collections.abc import Iterable
from typing import Any

from gempi_jax.llm.columns import DataError, Row, is_conversational, missing_column


def to_prompt(row: Row) -> Row:
    """Demonstrations, preferences of both kinds, or conversations to prompts."""
    row = to_prompt_completion(row) if "messages" in row else extract_prompt(row) if _implicit(row) else row
    _need(row, "prompt")
    return _without(row, "completion", "chosen", "rejected", "label")


def to_prompt_completion(row: Row) -> Row:
    """Demonstrations from preferences (the chosen one), conversations (the last turn of the assistant) or texts.

    A ``text`` has no prompt: all of it is completion.  An unpaired preference has to be filtered first, see
    ``preferred``.
    """
    if "messages" in row:
        return {**_without(row, "messages"), **_split_last_turn(row["messages"])}
    if "text" in row:
        return {**_without(row, "text"), "prompt": "", "completion": row["text"]}
    if "chosen" in row:
        row = extract_prompt(row)
        return {**_without(row, "chosen", "rejected"), "completion": row["chosen"]}
    _need(row, "prompt", "completion")
    return dict(row)


def cut_text(row: Row, most: int) -> Row:
    """A prompt and completion from a ``text``: its first half, as far as a word's end, and the rest.

    Args:
      row: with ``text``.
      most: characters that the prompt may have.
    """
    _need(row, "text")
    text = row["text"]
    end = max(1, min(len(text) // 2, most))
    words = [match.start() for match in re.finditer(r"(?<=\S)\s", text[: end + 1])]
    end = words[-1] if words else end
    return {**_without(row, "text"), "prompt": text[:end], "completion": text[end:]}


def to_language_modelling(row: Row) -> Row:
    """Whole texts (``text``) or conversations (``messages``) from demonstrations or preferences (the chosen one)."""
    if "messages" in row or "text" in row:
        return dict(row)
    row = to_prompt_completion(row)
    whole = _join(row["prompt"], row["completion"])
    return {**_without(row, "prompt", "completion"), "messages" if is_conversational(whole) else "text": whole}


def extract_prompt(row: Row) -> Row:
    """Preferences with the prompt made explicit: what ``chosen`` and ``rejected`` have in common at the start.

    A text is not cut inside a word, and the space in front of an answer belongs to the answer.
    """
    if "prompt" in row:
        return dict(row)
    _need(row, "chosen", "rejected")
    chosen, rejected = row["chosen"], row["rejected"]
    shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    if isinstance(chosen, str):
        shared = _end_of_word(chosen, rejected, shared)
    if not shared:
        raise DataError(
            f"'chosen' and 'rejected' do not begin alike, so there is no prompt in them: {str(chosen)[:40]!r} and "
            f"{str(rejected)[:40]!r}; give the prompt as a column."
        )
    return {**row, "prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}


def _end_of_word(chosen: str, rejected: str, shared: int) -> int:
    if chosen[shared : shared + 1].isalnum() or rejected[shared : shared + 1].isalnum():
        while shared and chosen[shared - 1].isalnum():
            shared -= 1
    return shared - 1 if shared and chosen[shared - 1] == " " else shared


def to_implicit_prompt(row: Row) -> Row:
    """Preferences with the prompt in front of both answers."""
    _need(row, "prompt", "chosen", "rejected")
    wholes = {name: _join(row["prompt"], row[name]) for name in ("chosen", "rejected")}
    return {**_without(row, "prompt"), **wholes}


def unpair(rows: Iterable[Row]) -> list[Row]:
    """Unpaired preferences: each chosen answer with label True, each rejected one with False, one behind the other."""
    unpaired = []
    for row in map(extract_prompt, rows):
        rest = _without(row, "chosen", "rejected")
        unpaired += [{**rest, "completion": row["chosen"], "label": True}]
        unpaired += [{**rest, "completion": row["rejected"], "label": False}]
    return unpaired


def preferred(rows: Iterable[Row]) -> list[Row]:
    """Demonstrations from unpaired preferences: those with label True."""
    kept = []
    for row in rows:
        _need(row, "prompt", "completion", "label")
        if row["label"]:
            kept.append(_without(row, "label"))
    return kept


def to_scored(rows: Iterable[Row]) -> list[Row]:
    """Scored completions for offline methods from unpaired preferences: reward 1 for label True, 0 for False."""
    return [{**_without(row, "label"), "reward": float(row["label"])} for row in rows]


def _split_last_turn(messages: list[dict[str, Any]]) -> Row:
    last = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=0)
    if last == 0:
        roles = ", ".join(str(message["role"]) for message in messages)
        raise DataError(f"'messages' has no turn of an assistant behind another ({roles}); there is nothing to learn.")
    return {"prompt": messages[:last], "completion": messages[last : last + 1]}


def _join(prompt: Any, answer: Any) -> Any:
    if isinstance(prompt, str) != isinstance(answer, str):
        raise DataError(
            f"the prompt is a {type(prompt).__name__} but its answer a {type(answer).__name__}; make both strings or "
            "both role lists."
        )
    return prompt + answer


def _implicit(row: Row) -> bool:
    return "prompt" not in row and "chosen" in row


def _without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}


def _need(row: Row, *names: str) -> None:
    for name in names:
        if name not in row:
            raise DataError(missing_column(name, row))
