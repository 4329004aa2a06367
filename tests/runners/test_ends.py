"""What ends a completion: tokens, and strings whose tokens depend on what stands before them."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from configs.llm import arithmetic
from gempi_jax.llm import Completions
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.ends import Ends, phase_ends, stop_sequences, union


def tokenizer(prepend, unknown=None):
    """Words of Llama's kind: a space before the text's first word, or none."""
    vocabulary = {"▁": 0, "a": 1, ".": 2, "!": 3, "▁a": 4, "a!": 5, "<unk>": 6}
    merges = [("▁", "a"), ("a", "!")]
    words = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown))
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token=unknown, eos_token="a!")


def test_a_string_counts_at_the_start_and_behind_text():
    # "." alone is "▁.", and behind "a" it is "." : "▁a" and ".".
    assert stop_sequences(tokenizer("always"), (".",), "place") == ((0, 2), (2,))
    # Without the space in front both are one sequence, and two strings keep their order.
    assert stop_sequences(tokenizer("never"), ("..", "."), "place") == ((2, 2), (2,))
    # Behind "a" an exclamation mark is part of the token "a!": only the whole of "!" alone counts.
    assert stop_sequences(tokenizer("never"), ("!",), "place") == ((3,),)


def test_strings_that_could_never_be_written_are_refused():
    with pytest.raises(ValueError, match=r"config\.rl\.stop_sequences: 'z' gives no tokens with this tokenizer"):
        stop_sequences(tokenizer("never"), ("z",), "config.rl.stop_sequences")
    with pytest.raises(ValueError, match=r"place: '\.z' is not in the tokenizer's vocabulary: it becomes '<unk>'"):
        stop_sequences(tokenizer("never", "<unk>"), (".z",), "place")


def test_a_completion_has_ended_when_its_last_tokens_are_an_end():
    tokens = np.array([[[5, 9, 0], [1, 2, 3], [2, 3, 0], [1, 3, 9], [3, 0, 0], [2, 3, 3]]])
    lengths = np.array([[2, 3, 2, 2, 1, 3]])
    zeros = np.zeros(tokens.shape, np.float32)
    completions = Completions(tokens, lengths, zeros, zeros)
    # By rows: eos; 2 3 at the end; 2 3 and nothing else; an eos that is padding; 3 alone; 2 3 that goes on.
    expected = [[True, True, True, False, False, False]]
    np.testing.assert_array_equal(Ends((9,), ((2, 3),)).reached(completions), expected)


def test_the_checkpoints_own_end_tokens_end_completions_too():
    config = arithmetic.get_config("vmpo,quick")
    config.model.end_tokens = (".",)
    ends = phase_ends(tokenizer("never"), settings_from_config(config), (3, 5))
    # The tokenizer's, the config's, the checkpoint's, each once.
    assert {phase.eos_ids for phase in ends.values()} == {(5, 2, 3)}


def test_held_out_completions_end_at_what_ends_any_phases():
    assert union([Ends((9,), ((2, 3),)), Ends((9,)), Ends((9,), ((4,), (2, 3)))]) == Ends((9,), ((2, 3), (4,)))
