"""The rows of a run, and what a prompt is made of."""

import dataclasses
import string
from typing import Any

from gempi_jax.runners.settings.checks import require


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Where rows come from.

    Attributes:
      task: arithmetic (generated), stories (generated openings), jsonl (files with TRL's columns,
        of any format that is read).
      train_path, heldout_path: for task jsonl: a .jsonl, .json or .parquet file, a folder of such files, or one that
        ``datasets`` saved.
      stream: rows are read and encoded when a batch asks for them, for files larger than memory.
      columns: names in the file -> names here, e.g. {"question": "prompt"}; a tuple gives a column several names.
      num_demonstrations, num_train, num_heldout: rows; 0 takes all of a file.
      split: which generated problems judge the run: ``tuning`` or ``heldout``.
      max_prompt_length: tokens.
      long_prompts: what happens to longer ones: drop, truncate (keeps the end; both are counted), error.
      long_completions: the same for completions that are learnt.
      prompt_template: text around a prompt, with ``{prompt}`` in it.
      chat_template: of role lists: the name of one of the tokenizer's templates, or the path of a Jinja file; empty
        takes the tokenizer's own, of several its default.
    """

    task: str = "arithmetic"
    train_path: str = ""
    heldout_path: str = ""
    stream: bool = False
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)
    num_demonstrations: int = 0
    num_train: int = 0
    num_heldout: int = 0
    split: str = "heldout"
    max_prompt_length: int = 32
    long_prompts: str = "drop"
    long_completions: str = "error"
    prompt_template: str = "{prompt}"
    chat_template: str = ""

    def __post_init__(self):
        require(
            _template_fields(self.prompt_template) == {"prompt"},
            "prompt_template",
            self.prompt_template,
            "needs {prompt} in it and no other field; a brace of the text itself is written twice, {{ or }}",
        )
        for name in ("num_demonstrations", "num_train", "num_heldout"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must be at least 1, or 0 for all of a file")
        for name, new in self.columns.items():
            names = (new,) if isinstance(new, str) else new
            several = isinstance(names, tuple | list) and names and all(isinstance(item, str) for item in names)
            require(several, f"columns[{name!r}]", new, "must be a name such as 'prompt', or a tuple of names")
        require(self.split in ("tuning", "heldout"), "split", self.split, "must be 'tuning' or 'heldout'")
        require(self.max_prompt_length > 0, "max_prompt_length", self.max_prompt_length, "must be at least 1")


def _template_fields(template: str) -> set[str] | None:
    """Names of the plain fields of a format string; ``None`` where it is no such string."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        return None
    plain = all(not form and not conversion for _, name, form, conversion in parts if name is not None)
    return {name for _, name, _, _ in parts if name is not None} if plain else None
