"""What is too long is handled as stated and counted."""

import pytest
from tokenizers import processors

from gempi_jax.llm.encoding import encode_completions, encode_demonstrations, encode_prompts
from gempi_jax.llm.lengths import TooLong
from gempi_jax.llm.tokenizers import load_tokenizer, train_tokenizer

TOKENIZER = train_tokenizer(["a b c d e f g h"], 300, largest_number=20)
PROMPTS = ["1 2 3 4", "1", "1 2"]  # 7, 1 and 3 tokens: digits and spaces


def with_special_tokens(template: str):
    """The tokenizer, but putting special tokens around every text as Llama's (bos) or T5's (eos) do."""
    tokenizer = train_tokenizer(["a b c d e f g h"], 300, largest_number=20)
    special = [("<bos>", tokenizer.bos_token_id), ("<eos>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return tokenizer


def test_long_prompts_are_dropped_and_counted():
    encoded = encode_prompts(TOKENIZER, PROMPTS, 3, TooLong.DROP)
    assert [TOKENIZER.decode(tokens) for tokens in encoded.tokens] == ["1", "1 2"]
    assert (encoded.kept.tolist(), encoded.num_dropped, encoded.num_truncated) == ([1, 2], 1, 0)


def test_long_prompts_keep_their_end():
    encoded = encode_prompts(TOKENIZER, PROMPTS, 3, TooLong.TRUNCATE)
    assert [TOKENIZER.decode(tokens) for tokens in encoded.tokens] == ["3 4", "1", "1 2"]
    assert (encoded.kept.tolist(), encoded.num_dropped, encoded.num_truncated) == ([0, 1, 2], 0, 1)


def test_long_prompts_keep_their_bos_too():
    encoded = encode_prompts(with_special_tokens("<bos> $A"), PROMPTS, 4, TooLong.TRUNCATE)
    assert [TOKENIZER.decode(tokens) for tokens in encoded.tokens] == ["<bos>3 4", "<bos>1", "<bos>1 2"]
    shortest = encode_prompts(with_special_tokens("<bos> $A"), PROMPTS, 1, TooLong.TRUNCATE)
    assert shortest.tokens == [[TOKENIZER.bos_token_id]] * 3


def test_an_eos_behind_a_prompt_is_taken_off():
    encoded = encode_prompts(with_special_tokens("$A <eos>"), PROMPTS, 8)
    assert [TOKENIZER.decode(tokens) for tokens in encoded.tokens] == PROMPTS


def test_long_prompts_can_be_an_error():
    with pytest.raises(ValueError, match=r"1 of 3 prompts are longer than 3 tokens, first prompt 0 with 7"):
        encode_prompts(TOKENIZER, PROMPTS, 3, TooLong.ERROR)
    assert encode_prompts(TOKENIZER, PROMPTS, 7, TooLong.ERROR).num_dropped == 0


def test_nothing_left_is_an_error():
    with pytest.raises(ValueError, match=r"every one of the 1 prompts is longer than 3 tokens \(shortest 7\)"):
        encode_prompts(TOKENIZER, PROMPTS[:1], 3)
    with pytest.raises(ValueError, match="max_length is 0"):
        encode_prompts(TOKENIZER, PROMPTS, 0)


def test_an_empty_prompt_starts_from_bos_or_is_an_error():
    assert encode_prompts(TOKENIZER, [""], 4).tokens == [[TOKENIZER.bos_token_id]]
    without = train_tokenizer(["a b"], 300, largest_number=20)
    without.bos_token = None
    with pytest.raises(ValueError, match=r"prompt 1 has no tokens, and the tokenizer has no bos"):
        encode_prompts(without, ["a", ""], 4)


def test_completions_end_with_eos_unless_truncated():
    encoded = encode_completions(with_special_tokens("<bos> $A"), PROMPTS, 4, TooLong.TRUNCATE)
    assert [TOKENIZER.decode(tokens) for tokens in encoded.tokens] == ["1 2 ", "1<eos>", "1 2<eos>"]
    assert encoded.num_truncated == 1
    assert encode_completions(TOKENIZER, PROMPTS, 4).kept.tolist() == [1, 2]
    with pytest.raises(ValueError, match="first completion 0 with 8"):
        encode_completions(TOKENIZER, PROMPTS, 4, TooLong.ERROR)


def test_a_real_tokenizer_puts_its_own_tokens_in_front(shared_data):
    tokenizer = load_tokenizer(shared_data / "stories260k")
    text = "Once upon a time, there was a dog."
    encoded = encode_prompts(tokenizer, [text], 64)
    assert encoded.tokens == [tokenizer(text)["input_ids"]]
    together = encoded.tokens[0] + encode_completions(tokenizer, [" It was red."], 64).tokens[0]
    assert tokenizer.decode(together, skip_special_tokens=True).split() == (text + " It was red.").split()


def test_a_completion_ends_in_any_of_the_end_tokens():
    def ends(text, end_ids=()):
        rows = [{"prompt": "a", "completion": text}]
        (tokens,) = encode_demonstrations(TOKENIZER, rows, 8, 8, end_ids=end_ids).completions
        return TOKENIZER.decode(tokens)

    (pad,) = TOKENIZER("<pad>").input_ids
    assert [ends(" b"), ends(" b<eos>"), ends(" b<pad>")] == [" b<eos>", " b<eos>", " b<pad><eos>"]
    assert [ends(" b<pad>", (pad,)), ends("<pad> b", (pad,)), ends("", (pad,))] == [" b<pad>", "<pad> b<eos>", "<eos>"]
