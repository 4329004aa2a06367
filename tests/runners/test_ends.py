"""What ends a completion: tokens, and strings whose tokens depend on what stands before them."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from configs.llm import arithmetic
from gempi_jax.llm import Completions
from gempi_jax.llm.stops import find_strings
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.ends import Ends, phase_ends, union


def tokenizer(prepend, unknown=None):
    """Words of Llama's kind: a space before the text's first word, or none."""
    vocabulary = {"▁": 0, "a": 1, ".": 2, "!": 3, "▁a": 4, "a!": 5, "<unk>": 6}
    merges = [("▁", "a"), ("a", "!")]
    words = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown))
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    words.decoder = decoders.Metaspace(prepend_scheme=prepend)
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token=unknown, eos_token="a!")


def test_a_completion_has_ended_when_its_last_token_is_an_end_or_completes_a_string():
    tokens = np.array([[[5, 0, 0], [1, 2, 3], [3, 0, 0], [1, 3, 0], [1, 0, 0], [2, 1, 5]]])
    lengths = np.array([[1, 2, 1, 2, 1, 2]])
    zeros = np.zeros(tokens.shape, np.float32)
    completions = Completions(tokens, lengths, zeros, zeros)
    # By rows: "a!"; "a." and what is padding; "!" alone; "a!" in two tokens; "a"; ".a", and an end that is padding.
    ends = Ends((5,), (".", "a!"), find_strings(tokenizer("never"), (".", "a!")))
    np.testing.assert_array_equal(ends.reached(completions), [[True, True, False, True, False, True]])
    np.testing.assert_array_equal(Ends((5,)).reached(completions), [[True, False, False, False, False, False]])


def test_strings_that_could_never_be_written_are_refused():
    config = arithmetic.get_config("vmpo,quick")
    config.rl.stop_sequences = ("a", "z")
    with pytest.raises(ValueError, match=r"config\.rl\.stop_sequences: 'z' is spelt by no tokens of this tokenizer"):
        phase_ends(tokenizer("never"), settings_from_config(config))


def test_the_checkpoints_own_end_tokens_end_completions_too():
    config = arithmetic.get_config("vmpo,quick")
    config.model.end_tokens = (".",)
    ends = phase_ends(tokenizer("never"), settings_from_config(config), (3, 5))
    # The tokenizer's, the config's, the checkpoint's, each once.
    assert {phase.eos_ids for phase in ends.values()} == {(5, 2, 3)}


def test_held_out_completions_end_at_what_ends_any_phases():
    ends = union(tokenizer("never"), [Ends((9,), (".",)), Ends((9, 3)), Ends((9,), ("a", "."))])
    assert (ends.eos_ids, ends.strings) == ((9, 3), (".", "a"))
    assert ends.stops.possible
