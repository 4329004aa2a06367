"""What a saved folder says ends a completion."""

import pathlib
from collections.abc import Sequence

from gempi_jax.llm.hf.config import read_json
from gempi_jax.llm.hf.weights import write_json

_FILE = "generation_config.json"
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_DERIVED = "_from_model_config"
"""Where it is true, transformers may read config.json in place of the file, as where that holds a temperature."""


def list_end_tokens(path: str | pathlib.Path, eos_ids: Sequence[int]) -> None:
    """Makes ``generation_config.json`` list these tokens, so that transformers' ``generate`` ends where they do.

    A folder that says so already stays as it is.

    Args:
      path: a folder as :func:`gempi_jax.llm.hf.save_pretrained` writes it.
      eos_ids: all tokens that end a completion.
    """
    folder = pathlib.Path(path).expanduser()
    model = read_json(folder / "config.json")
    # Without the file, transformers takes these from config.json.
    values = {name: model[name] for name in _IDS if model.get(name) is not None}
    if (folder / _FILE).is_file():
        values = read_json(folder / _FILE)
    stated = [model if values.get(_DERIVED) else values, values]
    if any(_listed(each.get("eos_token_id")) != set(eos_ids) for each in stated):
        values = {name: value for name, value in values.items() if name != _DERIVED}
        write_json(folder / _FILE, {**values, "eos_token_id": eos_ids[0] if len(eos_ids) == 1 else list(eos_ids)})


def _listed(stated: int | list[int] | None) -> set[int | None]:
    return set(stated if isinstance(stated, list) else [stated])
