"""What ends a completion: tokens, and strings that a config gives."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from gempi_jax.llm.generate import Completions
from gempi_jax.runners.settings import RunSettings

_TEXT = "a"


class Ends(NamedTuple):
    """What ends a completion; either is part of it.

    Attributes:
      eos_ids: tokens.
      stop_sequences: token sequences.
    """

    eos_ids: tuple[int, ...]
    stop_sequences: tuple[tuple[int, ...], ...] = ()

    def reached(self, completions: Completions) -> np.ndarray:
        """Which completions [G, K] came to an end of their own; the others were cut off."""
        reached = np.zeros(completions.lengths.shape, bool)
        for sequence in (*((eos_id,) for eos_id in self.eos_ids), *self.stop_sequences):
            places = completions.lengths[..., None] - len(sequence) + np.arange(len(sequence))
            last = np.take_along_axis(completions.tokens, np.maximum(places, 0), axis=-1)
            reached |= (last == np.array(sequence)).all(-1) & (completions.lengths >= len(sequence))
        return reached


def phase_ends(tokenizer: PreTrainedTokenizerBase, settings: RunSettings, own: Sequence[int] = ()) -> dict[str, Ends]:
    """What ends a completion in each phase.

    Args:
      tokenizer: of the policy.
      settings: of the run.
      own: ids that the checkpoint says end a completion, beside the tokenizer's.

    Raises:
      ValueError: see :func:`end_tokens` and :func:`stop_sequences`.
    """
    eos_ids = tuple(dict.fromkeys([*end_tokens(tokenizer, settings.model.end_tokens), *own]))
    return {
        name: Ends(eos_ids, stop_sequences(tokenizer, phase.stop_sequences, f"config.{name}.stop_sequences"))
        for name, phase in settings.phases.items()
    }


def union(ends: Iterable[Ends]) -> Ends:
    """What ends a held-out completion: the same in all phases, so that they can be compared."""
    eos_ids, sequences = zip(*ends, strict=True)
    return Ends(*(tuple(dict.fromkeys(x for several in kind for x in several)) for kind in (eos_ids, sequences)))


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


def stop_sequences(
    tokenizer: PreTrainedTokenizerBase, strings: Sequence[str], place: str
) -> tuple[tuple[int, ...], ...]:
    """The tokens of strings that end a completion.

    A string is written in more than one way: at a text's start, where some tokenizers put a space before it, and behind
    other text.  Both count; a way in which it shares a token with what surrounds it does not.

    Args:
      tokenizer: of the policy.
      strings: such as ``"\\n\\n"``.
      place: the setting, for errors.

    Raises:
      ValueError: a string that gives no tokens, or one with a character that the tokenizer does not know.
    """
    sequences = []
    for string in strings:
        alone = _encode(tokenizer, string)
        if not alone:
            raise ValueError(f"{place}: {string!r} gives no tokens with this tokenizer, and would end nothing; drop it")
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in alone:
            raise ValueError(
                f"{place}: {string!r} is not in the tokenizer's vocabulary: it becomes {tokenizer.unk_token!r}, as "
                "other text does; choose one that the model can write"
            )
        sequences.append(alone)
        before, after = _encode(tokenizer, _TEXT), _encode(tokenizer, _TEXT + string)
        if after[: len(before)] == before and after[len(before) :]:
            sequences.append(after[len(before) :])
    return tuple(dict.fromkeys(sequences))


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))
