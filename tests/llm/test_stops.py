"""Strings that end a completion are found in what the tokens spell, wherever tokens fall."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempi_jax.llm.stops import find_sequences, find_strings, token_bytes
from tests.cases import users

LETTERS = st.binary(max_size=4).map(lambda text: bytes(97 + byte % 3 for byte in text))


@given(
    st.lists(LETTERS, min_size=3, max_size=8),
    st.lists(LETTERS.filter(len), min_size=1, max_size=3),
    st.lists(st.integers(0, 9), max_size=12),
)
def test_a_string_is_found_when_it_is_in_the_text(spelt, strings, tokens):
    stops = find_sequences(spelt, strings)
    spell = dict(enumerate(spelt))
    state = 0
    for i, token in enumerate(tokens):
        state = int(stops.advance(jnp.array(state), jnp.array(token)))
        text = b"".join(spell.get(token, b"") for token in tokens[: i + 1])
        assert (state == stops.complete) == any(string in text for string in strings)
    if tokens:
        reached = stops.reached(np.array([tokens]), np.array([len(tokens)]))
        np.testing.assert_array_equal(reached, [state == stops.complete])


@pytest.mark.parametrize(
    "tokenizer", [users.words_tokenizer(["<answer>"]), users.pieces_tokenizer()], ids=["words", "pieces"]
)
def test_what_tokens_spell_is_what_they_decode_to(tokenizer):
    spelt = token_bytes(tokenizer)
    assert len(spelt) == len(tokenizer)
    for text in (
        'The cat is big.\n\nThe dog said: "Hi!"',
        "Zoë drank ☕  \t\x07\n",
        "a " + tokenizer.all_special_tokens[-1],
    ):
        # Behind another text, whose first space some decoders strip.
        tokens = tokenizer("x" + text, add_special_tokens=False)["input_ids"]
        assert b"".join(spelt[token] for token in tokens).decode().lstrip() == "x" + text


def test_a_blank_line_is_found_within_the_token_of_a_sentences_end():
    tokenizer = users.pieces_tokenizer()
    stops = find_strings(tokenizer, ("\n\n", "Once"))
    cases = {".\n\n": True, "!\n\nThe": True, " Once": True, ".\n": False, "\n \n": False, " On": False}
    for text, found in cases.items():
        tokens = np.array([tokenizer(text, add_special_tokens=False)["input_ids"]])
        assert stops.reached(tokens, np.array([tokens.size])).tolist() == [found]
    # Few kinds of tokens do anything at all.
    assert stops.next_state.shape[1] < 30


def test_a_special_token_is_found_by_its_name():
    tokenizer = users.words_tokenizer(["</answer>"])
    (token,) = tokenizer("</answer>", add_special_tokens=False)["input_ids"][-1:]
    assert tokenizer.convert_ids_to_tokens(token) == "</answer>"
    assert find_strings(tokenizer, ["</answer>"]).reached(np.array([[token]]), np.array([1])).all()


def test_a_string_within_another_is_found_first():
    stops = find_sequences([b"a", b"b", b"c", b"abx"], [b"abc", b"b", b"bx"])
    assert stops.reached(np.array([[0, 1], [0, 0], [3, 0]]), np.array([2, 2, 1])).tolist() == [True, False, True]


def test_what_could_end_nothing_or_everything_is_refused():
    assert not find_sequences([b"a", b"b"], [b"ac"]).possible
    assert find_sequences([b"a", b"bc"], [b"ab"]).possible
    for sequences in ([b"a", b""], []):
        with pytest.raises(ValueError, match="an empty sequence"):
            find_sequences([b"a"], sequences)


@pytest.mark.parametrize("make", [users.words_tokenizer, users.pieces_tokenizer])
def test_completions_end_where_those_of_transformers_do(make):
    torch = pytest.importorskip("torch")
    criteria = pytest.importorskip("transformers.generation.stopping_criteria")
    tokenizer, strings = make(), ["\n\n", "cat", " s", '!"']
    stops, theirs = find_strings(tokenizer, strings), criteria.StopStringCriteria(tokenizer, strings)
    # Theirs knows no parts of characters, which some tokens spell.
    whole = [i for i, spelt in enumerate(token_bytes(tokenizer)) if spelt and spelt.isascii()]
    generator, ended = np.random.default_rng(0), 0
    for tokens in generator.choice(whole, (20, 12)):
        ours = [bool(stops.reached(tokens[None, :end], np.array([end]))[0]) for end in range(1, 13)]
        until = ours.index(True) + 1 if True in ours else 12
        assert ours[:until] == [bool(theirs(torch.tensor(tokens[None, :end]), None)) for end in range(1, until + 1)]
        ended += True in ours
    assert 0 < ended < 20
