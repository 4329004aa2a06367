"""Trained tokenizers keep every text and every number whole; loaded ones fail with the fix."""

import json
import logging
import sys

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gempi_jax.llm.synthetic import LARGEST_NUMBER, arithmetic_rows
from gempi_jax.llm.tokenizers import Alphabet, load_tokenizer, train_tokenizer

ROWS = arithmetic_rows("demonstrations", 300, 0)
TEXTS = [row["prompt"] + row["completion"] for row in ROWS]
BYTES = train_tokenizer(TEXTS, 580)
SEEN = train_tokenizer(TEXTS, 320, largest_number=LARGEST_NUMBER, alphabet=Alphabet.SEEN)


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text)["input_ids"]


@given(st.text())
def test_any_text_survives_with_the_byte_alphabet(text):
    assert BYTES.decode(ids(BYTES, text)) == text


@pytest.mark.parametrize("tokenizer", [BYTES, SEEN])
def test_the_training_texts_survive(tokenizer):
    assert all(tokenizer.decode(ids(tokenizer, text)) == text for text in TEXTS)
    assert tokenizer.unk_token_id not in ids(tokenizer, "".join(TEXTS))


def test_unseen_characters_become_unknown_with_the_seen_alphabet():
    assert SEEN.unk_token_id in ids(SEEN, "ß")


@pytest.mark.parametrize("context", ["{}", " {}", "a {} b", "{}+{}={}", "${}.", "\n{}", "({})", "{}pens", "has  {}"])
def test_numbers_are_one_token_in_every_context(context):
    for number in range(201):
        token = BYTES.convert_tokens_to_ids(str(number))
        found = ids(BYTES, context.replace("{}", str(number)))
        assert found.count(token) == context.count("{}"), (number, context)


def test_larger_numbers_and_leading_zeros_are_spelt_in_digits():
    assert BYTES.convert_ids_to_tokens(ids(BYTES, "1080")) == ["1", "0", "8", "0"]
    assert BYTES.convert_ids_to_tokens(ids(BYTES, "201")) == ["2", "0", "1"]
    assert BYTES.convert_ids_to_tokens(ids(BYTES, "007")) == ["0", "0", "7"]
    assert BYTES.convert_ids_to_tokens(ids(BYTES, "200")) == ["200"]


def test_without_whole_numbers_every_digit_is_a_token():
    tokenizer = train_tokenizer(TEXTS, 300, whole_numbers=False, alphabet=Alphabet.SEEN)
    assert tokenizer.convert_ids_to_tokens(ids(tokenizer, "120+7")) == ["1", "2", "0", "+", "7"]


@pytest.mark.parametrize("tokenizer", [BYTES, SEEN])
def test_prompt_and_completion_have_the_same_tokens_apart_and_together(tokenizer):
    for row in ROWS:
        apart = ids(tokenizer, row["prompt"]) + ids(tokenizer, row["completion"])
        assert apart == ids(tokenizer, row["prompt"] + row["completion"])


def test_special_tokens_and_sizes():
    for tokenizer, size in ((BYTES, 580), (SEEN, 320)):
        special = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
        assert special == (0, 1, 2, 3)
        assert len(tokenizer) == size
        assert sorted(tokenizer.get_vocab().values()) == list(range(size))
        assert tokenizer.decode([5, 0, 2], skip_special_tokens=True) == tokenizer.decode([5])


def test_the_same_texts_give_the_same_tokenizer():
    again = train_tokenizer(iter(TEXTS), 580)
    assert again.backend_tokenizer.to_str() == BYTES.backend_tokenizer.to_str()


@pytest.mark.parametrize("tokenizer", [BYTES, SEEN])
def test_save_and_load_is_exact(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    for loaded in (AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path), load_tokenizer(str(tmp_path))):
        assert loaded.get_vocab() == tokenizer.get_vocab()
        assert loaded.special_tokens_map == tokenizer.special_tokens_map
        assert all(ids(loaded, text) == ids(tokenizer, text) for text in TEXTS[:50])
        assert loaded.decode(ids(loaded, TEXTS[0])) == TEXTS[0]


def test_the_main_job_fits_forty_tokens():
    lengths = sorted(len(ids(SEEN, row["prompt"])) for row in ROWS)
    completions = sorted(len(ids(SEEN, row["completion"])) for row in ROWS)
    assert lengths[len(lengths) // 2] <= 24
    assert completions[len(completions) // 2] <= 14
    assert completions[-1] <= 20


def test_a_real_tokenizer_loads_and_survives(shared_data):
    tokenizer = load_tokenizer(shared_data / "stories260k")
    text = "Once upon a time, there was a little girl named Lily."
    assert tokenizer.decode(ids(tokenizer, text), skip_special_tokens=True).strip() == text
    assert tokenizer.eos_token_id == 2


def test_a_tokenizer_of_no_model_s_class_is_read_as_it_is_beside_any_model(tmp_path):
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<end>": 0, "one": 1, "two": 2}, unk_token="<end>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>").save_pretrained(tmp_path)
    # Qwen2's own class splits bytes, and has an unknown token of its own.
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}))
    loaded = load_tokenizer(tmp_path)
    assert (loaded("two one two")["input_ids"], len(loaded)) == ([2, 1, 2], 3)


def test_training_errors_name_the_fix():
    with pytest.raises(ValueError, match="no text to learn from"):
        train_tokenizer(["", ""], 600)
    # 4 special tokens, 256 bytes and the numbers 10 to 200.
    with pytest.raises(ValueError, match="give at least 451"):
        train_tokenizer(TEXTS, 400)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer: none of tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a folder here nor a name that the hub gave"):
        load_tokenizer("nobody/nothing")


def test_unreadable_files_are_named(tmp_path):
    BYTES.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model"')
    with pytest.raises(ValueError, match="cannot be read"):
        load_tokenizer(tmp_path)


def without(folder, *names: str) -> None:
    """Remove special tokens from a saved tokenizer, as a badly exported checkpoint would."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / file).exists():
            content = json.loads((folder / file).read_text())
            (folder / file).write_text(json.dumps({k: v for k, v in content.items() if k not in names}))


def test_sentencepiece_s_own_file_names_the_line_that_installs_its_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    with pytest.raises(ImportError, match=r"^\S*tokenizer\.model: .* pip install sentencepiece$"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_end_token_is_an_error(tmp_path):
    BYTES.save_pretrained(tmp_path)
    without(tmp_path, "eos_token")
    with pytest.raises(ValueError, match=r'no end token.*"eos_token"'):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_pad_token_pads_with_eos_and_says_so_once(tmp_path, caplog):
    BYTES.save_pretrained(tmp_path)
    without(tmp_path, "pad_token")
    with caplog.at_level(logging.WARNING, logger="gempi_jax"):
        assert load_tokenizer(tmp_path).pad_token_id == BYTES.eos_token_id
        assert load_tokenizer(tmp_path).pad_token_id == BYTES.eos_token_id
    assert sum("no pad token" in record.message for record in caplog.records) == 1


def test_code_that_comes_with_a_checkpoint_is_never_executed(tmp_path):
    BYTES.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    with pytest.raises(ValueError, match="cannot be read"):
        load_tokenizer(tmp_path)
    assert not (tmp_path / "executed").exists()
