"""Rectangles hold exactly the tokens given."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempi_jax.llm.padding import MultipleOf, PowerOfTwo, pad_batch


@given(st.lists(st.lists(st.integers(0, 500), max_size=40), min_size=1, max_size=8), st.integers(0, 500))
def test_what_is_padded_can_be_read_back(sequences, pad_id):
    tokens, lengths = pad_batch(sequences, pad_id=pad_id)
    assert tokens.dtype == lengths.dtype == np.int32
    assert tokens.shape == (len(sequences), PowerOfTwo()(max(map(len, sequences))))
    assert [list(row[:length]) for row, length in zip(tokens, lengths, strict=True)] == sequences
    assert all((row[length:] == pad_id).all() for row, length in zip(tokens, lengths, strict=True))


@pytest.mark.parametrize(
    ("bucket", "expected"),
    [
        (PowerOfTwo(8), {0: 8, 1: 8, 8: 8, 9: 16, 16: 16, 17: 32, 100: 128}),
        (PowerOfTwo(24), {24: 24, 25: 48, 49: 96}),
        (MultipleOf(8), {0: 8, 8: 8, 9: 16, 17: 24}),
        (12, {0: 12, 12: 12}),
    ],
)
def test_widths(bucket, expected):
    for length, width in expected.items():
        assert pad_batch([[1] * length, []], bucket).tokens.shape == (2, width)


def test_padding_errors():
    with pytest.raises(ValueError, match="no sequences"):
        pad_batch([])
    with pytest.raises(ValueError, match="sequence 1 has 3 tokens but rows have 2"):
        pad_batch([[1], [1, 2, 3]], 2)
