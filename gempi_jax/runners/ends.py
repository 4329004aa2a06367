"""What ends a completion: tokens, and strings that a config gives.

There is one answer for a run: what SFT learns last, what ends a rollout, what ends an evaluation and what the export
says.  What cannot be the same everywhere is said when the run starts.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from gempi_jax.llm.chat import turn_end
from gempi_jax.llm.generate import Completions
from gempi_jax.llm.stops import Stops, find_strings
from gempi_jax.runners.build import blame
from gempi_jax.runners.settings import RunSettings

_logger = logging.getLogger(__name__)


class Ends(NamedTuple):
    """What ends a completion; either is part of it.

    Attributes:
      eos_ids: tokens.
      strings: in what the completion's tokens spell.
      stops: where those are found; ``None`` where there are none.
    """

    eos_ids: tuple[int, ...]
    strings: tuple[str, ...] = ()
    stops: Stops | None = None

    def reached(self, completions: Completions) -> np.ndarray:
        """Which completions [G, K] came to an end of their own; the others were cut off."""
        last = np.maximum(completions.lengths - 1, 0)[..., None]
        ends = np.isin(np.take_along_axis(completions.tokens, last, axis=-1)[..., 0], self.eos_ids)
        ends &= completions.lengths > 0
        return ends if self.stops is None else ends | self.stops.reached(completions.tokens, completions.lengths)


def phase_ends(
    tokenizer: PreTrainedTokenizerBase,
    settings: RunSettings,
    own: Sequence[int] = (),
    rows: Iterable[dict[str, Any]] = (),
) -> dict[str, Ends]:
    """What ends a completion in each phase.

    Args:
      tokenizer: of the policy.
      settings: of the run.
      own: ids that the checkpoint says end a completion, beside the tokenizer's.
      rows: what the run reads; where they hold conversations, the end of a turn ends a completion.

    Raises:
      ValueError: an end token that is none, or a string that the tokenizer's tokens do not spell.
    """
    known = tuple(dict.fromkeys([*end_tokens(tokenizer, settings.model.end_tokens), *own]))
    eos_ids = tuple(dict.fromkeys([*known, *_turn_ends(tokenizer, rows, known)]))
    ends = {}
    for name, phase in settings.phases.items():
        with blame(f"config.{name}.stop_sequences"):
            ends[name] = _ends(tokenizer, eos_ids, phase.stop_sequences)
    return ends


def _ends(tokenizer: PreTrainedTokenizerBase, eos_ids: tuple[int, ...], strings: Sequence[str]) -> Ends:
    strings = tuple(dict.fromkeys(strings))
    return Ends(eos_ids, strings, find_strings(tokenizer, strings) if strings else None)


def union(tokenizer: PreTrainedTokenizerBase, ends: Iterable[Ends]) -> Ends:
    """What ends a held-out completion: the same in all phases, so that they can be compared."""
    ends = list(ends)
    eos_ids = tuple(dict.fromkeys(eos_id for each in ends for eos_id in each.eos_ids))
    return _ends(tokenizer, eos_ids, [string for each in ends for string in each.strings])


def _turn_ends(tokenizer: PreTrainedTokenizerBase, rows: Iterable[dict[str, Any]], known: Sequence[int]) -> list[int]:
    """The token with which the chat template ends a turn, where rows hold conversations; said where it is a new one.

    SFT learns it last, so it ends rollouts and evaluations, and the export says so.

    Args:
      tokenizer: of the policy.
      rows: with ``prompt``, a string or a role list.
      known: ids that end a completion anyway.
    """
    if all(isinstance(row.get("prompt", ""), str) for row in rows):
        return []
    end = turn_end(tokenizer)
    if end is not None and end not in known:
        _logger.warning(
            "The chat template ends turns with %r, which no setting and no file of the model calls an end: it ends "
            "completions of this run as %r does, and the export lists it.",
            tokenizer.convert_ids_to_tokens(end),
            tokenizer.convert_ids_to_tokens(known[0]),
        )
    return [] if end is None else [end]


def say_what_disagrees(
    tokenizer: PreTrainedTokenizerBase, ends: Ends, learnt: dict[str, Completions], written: dict[str, Ends]
) -> None:
    """Says where ends are not the same everywhere: learnt last, of a rollout, of an evaluation, in the export.

    Args:
      tokenizer: of the policy.
      ends: of the run's evaluations.
      learnt: by phase, completions up to the last token that is learnt.
      written: by phase in which the policy writes, what ends its completions.
    """
    for name, own in written.items():
        others = tuple(string for string in ends.strings if string not in own.strings)
        if others:
            _logger.warning(
                "config.%s: rollouts do not end at %s, as evaluations do, since another phase has them as "
                "stop_sequences; give them to this phase, too, or to none.",
                name,
                others,
            )
    for name, completions in learnt.items():
        endless = ~ends.reached(completions)
        if endless.any():
            place = tuple(np.argwhere(endless)[0])
            _logger.warning(
                "config.%s: of the first %d completions that it learns, %d end in %r, which ends nothing: what the "
                "policy writes would go on to its limit. Name the token in config.model.end_tokens, or a string in "
                "stop_sequences.",
                name,
                endless.size,
                endless.sum(),
                tokenizer.decode([int(completions.tokens[(*place, completions.lengths[place] - 1)])]),
            )
    if ends.strings:
        _logger.warning(
            "stop_sequences = %s end completions of this run alone: the export lists end tokens; give transformers' "
            "generate the strings as stop_strings.",
            ends.strings,
        )


def end_tokens(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> tuple[int, ...]:
    """The tokenizer's end token, and further tokens that end a completion.

    Raises:
      ValueError: a name that is no token of this tokenizer.
    """
    vocabulary = tokenizer.get_vocab()
    for name in names:
        if name not in vocabulary:
            raise ValueError(f"config.model.end_tokens: {name!r} is no token of the tokenizer")
    return tuple(dict.fromkeys([tokenizer.eos_token_id, *(vocabulary[name] for name in names)]))
