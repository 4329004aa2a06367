"""Prompt and completion are one text: their tokens are the whole's, and what is decoded is what the tokens spell."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from gempi_jax.llm.seams import decode_completions, encode_openings, encode_pairs, encode_spans, encode_texts
from gempi_jax.llm.tokenizers import train_tokenizer
from tests.cases import users


def words(scheme: str = "first", special: tuple[str, ...] = ()):
    """SentencePiece's kind, with another way of putting a space in front of texts."""
    tokenizer = users.words_tokenizer(special)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if scheme == "normalizer":  # as the files of Llama 1 and 2 have it
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        state["normalizer"] = {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace],
        }
        state["pre_tokenizer"] = None
    else:
        state["pre_tokenizer"]["prepend_scheme"] = scheme
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    return tokenizer


def pieces(end: bool = False):
    """Byte-level, with a begin token or an end token that the post-processor adds."""
    tokenizer = users.pieces_tokenizer(("<s>", "</s>"))
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    template = "<s> $A </s>" if end else "<s> $A"
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return tokenizer


def byte_tokens():
    """A slow tokenizer, in Python: no offsets, an end token behind every text."""
    return ByT5Tokenizer(extra_ids=0)


def merging():
    """Digits and words of up to three characters are one token."""
    vocabulary = {c: i for i, c in enumerate(["<unk>", "4", "2", "42", "a", "n", "an", "Ġ", "Ġa", "Ġan", "Ċ", "ĊĊ"])}
    merges = [("4", "2"), ("Ġ", "a"), ("Ġa", "n"), ("a", "n"), ("Ċ", "Ċ")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


KINDS = {
    "words, first": words("first"),
    "words, always": words("always"),
    "words, normalizer": words("normalizer"),
    "pieces": users.pieces_tokenizer(),
    "pieces, begun": pieces(),
    "pieces, begun and ended": pieces(end=True),
    "bytes, slow": byte_tokens(),
    "our own": train_tokenizer(users.TEXTS, 400, largest_number=20),
}
PAIRS = [
    ("Tom said", ": hello."),
    ("Once", " upon a time."),
    ("He was un", "happy."),
    ("[assistant] ", "It is a cat."),
    ("The cat is big.\n\n", "The dog"),
    ("The cat  ", "is big"),
    ("", "The cat"),
    ("The cat\t", " is"),
    ("Tom said ", ""),
]


def whole_text(tokenizer, text):
    """Its tokens between begin and end tokens, from the tokenizer itself."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pair", PAIRS)
def test_both_together_are_the_tokens_of_the_whole_and_the_prompt_is_the_rollouts(kind, pair):
    tokenizer = KINDS[kind]
    (found,) = encode_pairs(tokenizer, [pair])
    (opening,) = encode_openings(tokenizer, [pair[0]])
    tokens = found.prompt + found.completion
    whole = whole_text(tokenizer, "".join(pair))
    assert tokens[len(tokens) - len(whole) :] == whole
    assert (found.prompt == opening) == (not found.straddles)
    assert not found.straddles or found.prompt == opening[: len(found.prompt)]


@pytest.mark.parametrize("kind", KINDS)
@given(before=st.sampled_from(["The cat", "Tom said:", "a 1", "x.\n"]), after=st.text("catThe .\n1é", max_size=12))
def test_a_completion_is_read_as_it_was_written(kind, before, after):
    tokenizer = KINDS[kind]
    for space in ("", " ", "\n"):
        prompt = before + space
        (pair,) = encode_pairs(tokenizer, [(prompt, after)])
        # Where a token straddles, the policy that goes on from the prompt cannot write this text in these tokens.
        if not pair.straddles:
            assert decode_completions(tokenizer, [(prompt, pair.prompt)], [pair.completion], ()) == [after]


@pytest.mark.parametrize(
    "kind", sorted(KINDS.keys() - {"bytes, slow"})
)  # whose special tokens take in the space around them
def test_a_special_token_puts_no_space_into_what_is_read(kind):
    tokenizer = KINDS[kind]
    marker = tokenizer.eos_token
    pairs = [(f"Tom{marker}", "The cat"), ("Tom", f"{marker}The{marker} cat"), (marker, f" The cat {marker}.")]
    found = encode_pairs(tokenizer, pairs, rendered=True)
    before = [(prompt, pair.prompt) for (prompt, _), pair in zip(pairs, found, strict=True)]
    texts = decode_completions(tokenizer, before, [pair.completion for pair in found], ())
    for (prompt, completion), text in zip(pairs, texts, strict=True):
        # Some tokenizers give no other tokens where a space follows; then it cannot be read.
        whole = prompt + completion
        readings = {whole, whole.replace(f"{marker} ", marker)}
        unreadable = len(readings) == 2 and len({str(encode_texts(tokenizer, [one], True)) for one in readings}) == 1
        assert text == (completion.replace(f"{marker} ", marker).lstrip() if unreadable else completion)


def test_seams_by_hand():
    tokenizer = KINDS["words, first"]
    names = tokenizer.convert_ids_to_tokens
    (found,) = encode_pairs(tokenizer, [("Tom said", ": hello.")])
    assert names(found.completion)[0] == ":"
    (found,) = encode_pairs(tokenizer, [("[assistant] ", "It is")])
    assert tokenizer.decode(found.prompt) == "<s> [assistant]"
    assert names(found.completion)[0].startswith("▁")
    (found,) = encode_pairs(merging(), [("4", "2 an")])
    assert merging().decode(found.completion) == "42 an"
    assert found == ([], whole_text(merging(), "42 an"), True)
    # A blank line at a text's end is one token, before a word two.
    assert [merging().convert_ids_to_tokens(row) for row in encode_openings(merging(), ["a\n\n", "a an "])] == [
        ["a", "Ċ", "Ċ"],
        ["a", "Ġan"],
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_begin_tokens_are_never_doubled_and_no_end_stands_behind_a_prompt(kind):
    tokenizer = KINDS[kind]
    text = "Tom said"
    (plain,) = encode_texts(tokenizer, [text])
    alone = tokenizer(text)["input_ids"]
    assert plain == alone[: len(plain)]
    assert tokenizer.eos_token_id not in plain
    if "begun" in kind or "words" in kind:
        assert plain[0] == tokenizer.bos_token_id
        (begun,) = encode_texts(tokenizer, [tokenizer.bos_token + text])
        assert begun.count(tokenizer.bos_token_id) == 1
        assert encode_texts(tokenizer, [text], rendered=True) == [whole_text(tokenizer, text)]


def test_an_end_in_a_prompts_own_text_stays():
    tokenizer = pieces(end=True)
    (tokens,) = encode_openings(tokenizer, ["[user] Hello</s>"])
    assert tokens[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_text_begin_as_prompts_end_and_reach_their_last_character(kind):
    tokenizer = KINDS[kind]
    text = "[user] The cat\n[assistant] It is big.\n[user] Once\n[assistant] a time\n"
    spans = [(text.index("It"), text.index("big.") + 4), (text.index("a time"), len(text) - 1)]
    tokens, parts = encode_spans(tokenizer, text, spans)
    assert tokens == whole_text(tokenizer, text)
    for (begin, end), (first, last, straddles) in zip(spans, parts, strict=True):
        assert not straddles
        assert tokens[:first] == encode_openings(tokenizer, [text[:begin]], rendered=True)[0]
        written = tokenizer.decode(tokens[first:last], clean_up_tokenization_spaces=False)
        assert written.strip() == text[begin:end]


def test_space_is_left_out_of_a_prompt_and_nothing_else():
    """A tokenizer with tokens of several words: ``of a`` would take the prompt's last word with it."""
    vocabulary = {t: i for i, t in enumerate(["<unk>", "▁", "o", "f", "a", "of", "▁of", "▁of▁", "▁of▁a"])}
    merges = [("o", "f"), ("▁", "of"), ("▁of", "▁"), ("▁of▁", "a")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Replace("▁", " ")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    assert [tokenizer.decode(row) for row in encode_openings(tokenizer, ["a of "])] == ["a of "]


def test_what_is_decoded_is_exact():
    tokenizer = words("first", ("<answer>",))
    (prompt,) = encode_openings(tokenizer, ["went to the"])
    tag, end = map(tokenizer.convert_tokens_to_ids, ("<answer>", "</s>"))
    river = whole_text(tokenizer, "the river")[1:]
    assert decode_completions(
        tokenizer,
        [("went to the", prompt)] * 4,
        [[*river, end], [tag, *river], [end, *river], []],
        {end},
    ) == [" river", "<answer> river", "</s> river", ""]


@pytest.mark.parametrize("kind", KINDS)
def test_behind_an_empty_prompt_no_space_is_read_that_nobody_wrote(kind):
    (pair,) = encode_pairs(KINDS[kind], [("", "The cat")])
    assert decode_completions(KINDS[kind], [("", pair.prompt)], [pair.completion], ()) == ["The cat"]


def test_half_a_character_is_shown_as_such_and_takes_nothing_with_it():
    tokenizer = users.pieces_tokenizer()
    cat = whole_text(tokenizer, "😺")
    for length in range(1, len(cat)):
        (text,) = decode_completions(tokenizer, [("a cat", whole_text(tokenizer, "a cat"))], [cat[:length]], ())
        assert set(text) == {"\N{REPLACEMENT CHARACTER}"}
    # A prompt that was cut inside a character is made whole by what follows.
    begun = [*whole_text(tokenizer, "a "), *cat[:2]]
    assert decode_completions(tokenizer, [("", begun)], [cat[2:]], ()) == ["😺"]


def test_nothing_is_cleaned_up():
    tokenizer = words("first")
    tokenizer.clean_up_tokenization_spaces = True
    prompt = whole_text(tokenizer, "Tom")
    (text,) = decode_completions(
        tokenizer, [("Tom", prompt)], [whole_text(tokenizer, "Tom , is n't .")[len(prompt) :]], ()
    )
    assert text == " , is n't ."
