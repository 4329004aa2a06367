"""Streams of random numbers by name.

``fold_in(key, n)`` is the n-th child of a key, and so is ``split(key)[n]``; whoever does both with one key, or numbers
two of its uses from 0, draws the same numbers twice.  Here a name is folded in first, as a hash of 32 bits, and numbers
only below it.
"""

import hashlib

import jax

from gempi_jax.types import Array


def named_key(key: Array, name: str, *numbers: int | Array) -> Array:
    """The key of a stream, and of its members.

    Args:
      key: whose streams differ by name; what draws from ``key`` itself shares nothing with them.
      name: of the stream; one of a user's own is put below one of ours, ``"phase/mine"``.
      numbers: which of the stream's keys, e.g. an epoch and a step in it; as many of them at every use of the name.
    """
    key = jax.random.fold_in(key, _digest(name, 4))
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key


def named_seed(seed: int, name: str) -> int:
    """The same for generators of the host: a seed of 64 bits from any whole number and a name."""
    return _digest(f"{seed}/{name}", 8)


def _digest(text: str, num_bytes: int) -> int:
    """A hash that is the same in every process, which Python's own is not."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=num_bytes).digest(), "little")
