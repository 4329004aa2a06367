"""The small models of the cases are what they are said to be."""

from gempi_jax.llm import load_pretrained


def test_both_kinds_of_tokenizers_behave_as_the_published_ones_do(words_model, pieces_model):
    words = load_pretrained(words_model("plain")).tokenizer
    ids = words("Tom said").input_ids
    assert words.convert_ids_to_tokens(ids[:2])[0] == "<s>"
    assert words.convert_ids_to_tokens(ids)[1].startswith("▁")
    assert words.decode(words("déjà vu").input_ids, skip_special_tokens=True) == "déjà vu"
    pieces = load_pretrained(pieces_model()).tokenizer
    tokens = pieces.tokenize("The cat is big.\n\nThe dog")
    assert ".ĊĊ" in tokens
