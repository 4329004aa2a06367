"""What a saved folder says ends a completion, read by transformers."""

import json

import pytest
from transformers import GenerationConfig

from gempi_jax.llm.hf.end_tokens import list_end_tokens

MODEL = {"model_type": "llama", "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}


@pytest.mark.parametrize(
    ("generation", "eos_ids", "expected"),
    [
        # Nothing to say that config.json does not say already; something new; with other values, in other orders.
        (None, (2,), None),
        (None, (2, 1), {"bos_token_id": 1, "eos_token_id": [2, 1]}),
        ({"eos_token_id": 2, "top_p": 0.9}, (2, 1), {"eos_token_id": [2, 1], "top_p": 0.9}),
        ({"eos_token_id": [1, 2], "top_p": 0.9}, (2, 1), {"eos_token_id": [1, 2], "top_p": 0.9}),
        ({"top_p": 0.9}, (2,), {"eos_token_id": 2, "top_p": 0.9}),
        # In place of a file that is derived from config.json, transformers may read that one: it is so no longer.
        ({"eos_token_id": 2, "_from_model_config": True}, (2,), {"eos_token_id": 2, "_from_model_config": True}),
        ({"eos_token_id": 2, "_from_model_config": True}, (2, 1), {"eos_token_id": [2, 1]}),
        ({"eos_token_id": [2, 1], "_from_model_config": True}, (2, 1), {"eos_token_id": [2, 1]}),
    ],
)
def test_all_end_tokens_are_listed_and_nothing_else_changes(tmp_path, generation, eos_ids, expected):
    (tmp_path / "config.json").write_text(json.dumps(MODEL))
    file = tmp_path / "generation_config.json"
    if generation is not None:
        file.write_text(json.dumps(generation))
    list_end_tokens(tmp_path, eos_ids)
    assert (json.loads(file.read_text()) if file.is_file() else None) == expected
    if expected:
        assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == expected["eos_token_id"]
