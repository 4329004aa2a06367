"""What ends a completion: tokens, and strings that a config gives.

There is one answer for a run: what SFT learns last, what ends a rollout, what ends an evaluation and what the export
says.  What cannot be the same everywhere is said when the run starts.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

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


def phase_ends(tokenizer: PreTrainedTokenizerBase, settings: RunSettings, own: Sequence[int] = ()) -> dict[str, Ends]:
    """What ends a completion in each phase.

    Args:
      tokenizer: of the policy.
      settings: of the run.
      own: ids that end a completion beside the tokenizer's: those that the checkpoint names, and a turn's end.

    Raises:
      ValueError: an end token that is none, or a string that the tokenizer's tokens do not spell.
    """
    eos_ids = tuple(dict.fromkeys([*end_tokens(tokenizer, settings.model.end_tokens), *own]))
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
