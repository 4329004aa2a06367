r"""Strings that end a completion, found in what the tokens spell, wherever tokens begin and end.

A token such as ``.\n\n`` completes the string ``\n\n`` though none of its tokens is the string's own.  So strings are
looked for in bytes, by one automaton for all of them (Aho and Corasick, 1975) that reads a token at a time: its state
is how much of a string the completion ends in, and what each token makes of each state is a table, worked out once.
"""

import json
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int
from transformers import PreTrainedTokenizerBase

from gempi_jax.types import Array

_PROBE = "a"


class Stops(NamedTuple):
    """Which token completes a string, by a table.

    State 0 has read nothing of any string, and the last state has read a whole one, which it never leaves.  Tokens that
    do the same to every state are of one kind; most do nothing.

    Attributes:
      next_state: by state and kind of token.
      kind: by token; the last entry is of all ids beyond it, which spell nothing.
    """

    next_state: Int[np.ndarray, "S N"]
    kind: Int[np.ndarray, " V"]

    @property
    def complete(self) -> int:
        """The state of completions that hold a whole string."""
        return self.next_state.shape[0] - 1

    @property
    def possible(self) -> bool:
        """Whether any tokens at all complete a string."""
        seen, found = set(), {0}
        while found - seen:
            seen |= found
            found = set(self.next_state[list(seen)].flat)
        return self.complete in seen

    def advance(self, states: Int[Array, "*b"], tokens: Int[Array, "*b"]) -> Int[Array, "*b"]:
        """The states behind one more token each."""
        kinds = jnp.asarray(self.kind)[jnp.minimum(tokens, len(self.kind) - 1)]
        return jnp.asarray(self.next_state)[states, kinds]

    def reached(self, tokens: Int[np.ndarray, "*b C"], lengths: Int[np.ndarray, "*b"]) -> Bool[np.ndarray, "*b"]:
        """Whether completions hold a whole string."""
        kinds = self.kind[np.minimum(tokens, len(self.kind) - 1)]
        states = np.zeros(lengths.shape, np.int32)
        for place in range(tokens.shape[-1]):
            states = np.where(place < lengths, self.next_state[states, kinds[..., place]], states)
        return states == self.complete


def find_sequences(spelt: Sequence[Sequence[int]], sequences: Sequence[Sequence[int]]) -> Stops:
    """The table of sequences of symbols.

    Args:
      spelt: the symbols of each token, from 0: bytes, or the token itself where sequences are of tokens.
      sequences: what is looked for.

    Raises:
      ValueError: an empty sequence, or none at all.
    """
    if not sequences or not all(sequences):
        raise ValueError("stops: there is an empty sequence, which would end everything; drop it")
    num_symbols = 1 + max(max(map(max, filter(None, spelt)), default=0), max(map(max, sequences)))
    steps = _automaton(sequences, num_symbols)
    table = np.tile(np.arange(len(steps), dtype=np.int32), (len(spelt) + 1, 1))
    lengths = np.array([len(symbols) for symbols in spelt])
    for place in range(lengths.max(initial=0)):
        (longer,) = np.nonzero(lengths > place)
        symbols = np.array([spelt[i][place] for i in longer])
        table[longer] = steps[table[longer], symbols[:, None]]
    kinds, kind = np.unique(table, axis=0, return_inverse=True)
    return Stops(np.ascontiguousarray(kinds.T), kind.reshape(-1).astype(np.int32))


def find_strings(tokenizer: PreTrainedTokenizerBase, strings: Sequence[str]) -> Stops:
    """The table of strings, as the bytes of UTF-8.

    Raises:
      ValueError: a string that no tokens spell.
    """
    spelt, wanted = token_bytes(tokenizer), [string.encode() for string in strings]
    for string, symbols in zip(strings, wanted, strict=True):
        if not find_sequences(spelt, [symbols]).possible:
            raise ValueError(f"{string!r} is spelt by no tokens of this tokenizer, and would end nothing; drop it")
    return find_sequences(spelt, wanted)


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> list[bytes]:
    """What each token spells behind others, by id: bytes, since a character may take several tokens.

    Added tokens, special ones among them, spell their own names; ids that name no token spell nothing.
    """
    added = {index: token.content for index, token in tokenizer.added_tokens_decoder.items()}
    spelt = [b""] * (1 + max(tokenizer.get_vocab().values()))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = json.loads(backend.to_str())["decoder"] if backend is not None else None
    # Some decoders strip a text's first space, so tokens are spelt behind another.
    before = tokenizer.convert_tokens_to_string([_PROBE])
    by_bytes = "ByteLevel" in _types(decoder)
    for token, index in tokenizer.get_vocab().items():
        if index in added:
            spelt[index] = added[index].encode()
        elif by_bytes:
            spelt[index] = b"".join(_BYTES.get(char, char.encode()) for char in token)
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            spelt[index] = bytes([int(token[3:5], 16)])
        else:
            spelt[index] = tokenizer.convert_tokens_to_string([_PROBE, token])[len(before) :].encode()
    return spelt


def _types(decoder: dict | None) -> set[str]:
    """The kinds of decoders of a tokenizer file."""
    if decoder is None:
        return set()
    return {decoder["type"]}.union(*map(_types, decoder.get("decoders", ())))


def _byte_names() -> dict[str, bytes]:
    """GPT-2's characters for bytes: printable ones are themselves, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    names = {chr(byte): bytes([byte]) for byte in printable}
    return names | {chr(0x100 + i): bytes([byte]) for i, byte in enumerate(others)}


_BYTES = _byte_names()


def _automaton(sequences: Sequence[Sequence[int]], num_symbols: int) -> Int[np.ndarray, "S A"]:
    """The next state by state and symbol; the last state is of whole sequences."""
    children: list[dict[int, int]] = [{}]
    whole = set()
    for sequence in sequences:
        node = 0
        for symbol in sequence:
            if symbol not in children[node]:
                children[node][symbol] = len(children)
                children.append({})
            node = children[node][symbol]
        whole.add(node)
    # Breadth first: without a child for a symbol, a node goes where the longest proper suffix that is a node goes.
    steps, suffix, queue = np.zeros((len(children), num_symbols), np.int32), {0: 0}, deque([0])
    while queue:
        node = queue.popleft()
        if suffix[node] in whole:
            whole.add(node)
        if node:
            steps[node] = steps[suffix[node]]
        for symbol, child in children[node].items():
            suffix[child] = int(steps[suffix[node], symbol]) if node else 0
            steps[node, symbol] = child
            queue.append(child)
    return _merged(steps, whole)


def _merged(steps: Int[np.ndarray, "S A"], whole: set[int]) -> Int[np.ndarray, "T A"]:
    """All states of whole sequences as one, the last, which leads to itself."""
    others = [node for node in range(len(steps)) if node not in whole]
    number = np.full(len(steps), len(others), np.int32)
    number[others] = np.arange(len(others))
    last = np.full((1, steps.shape[1]), len(others), np.int32)
    return np.concatenate([number[steps[others]], last])
