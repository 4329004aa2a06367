"""What is measured: sizes of models, shapes of batches, what a worker is told; plain Python for every environment."""

import dataclasses
import json
import zlib
from typing import Any


@dataclasses.dataclass(frozen=True)
class Size:
    """A Qwen2 with tied embeddings and random weights."""

    vocab_size: int
    width: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int


SIZES = {
    "toy": Size(64, 32, 64, 1, 2, 1),
    "0.107M": Size(512, 64, 128, 2, 4, 2),
    "5.0M": Size(8192, 256, 688, 4, 4, 2),
    "39.6M": Size(32000, 512, 1376, 8, 8, 4),
}
"""By the number of parameters."""

COMPARED = ("0.107M", "5.0M", "39.6M")
"""The sizes of the tables."""


@dataclasses.dataclass(frozen=True)
class Work:
    """The batch of one iteration.

    Attributes:
      prompts: of a batch; rows of a batch for SFT, pairs for DPO.
      samples: completions of each prompt.
      prompt_length: tokens; every prompt has as many.
      completion_length: tokens at most.
      mean_length: of completions that end with the same probability at every token; 0 for completions that never end
        before their limit.
    """

    prompts: int = 4
    samples: int = 4
    prompt_length: int = 32
    completion_length: int = 64
    mean_length: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of an iteration at full length, a prompt counted for each of its samples."""
        return self.prompts * self.samples * (self.prompt_length + self.completion_length)


@dataclasses.dataclass(frozen=True)
class Job:
    """What one worker does again and again.

    Attributes:
      side: a module of ``experiments.speed.sides``.
      task: a function of it.
      method: the algorithm, by the side's own name.
      folder: holds the model and the rows, see ``experiments.speed.folder``.
      size, work: shapes.
      allocator: whether freed memory stays with the process.
      core: to pin to; ``None`` pins to none.
      settings: more of them, by the side's own names.
      dump: a folder for what XLA says of its programs; empty for none.
      platform: of jax; empty for its own choice, an accelerator where there is one.
    """

    side: str
    task: str
    method: str
    folder: str
    size: Size
    work: Work
    allocator: bool = True
    core: int | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    dump: str = ""
    platform: str = "cpu"

    def write(self) -> str:
        """As JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def load(cls, text: str) -> "Job":
        """From :meth:`write`."""
        values = json.loads(text)
        return cls(**values | {"size": Size(**values["size"]), "work": Work(**values["work"])})


def spread(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """A reward that differs between completions and costs nothing; the signature is TRL's, Tunix's and ours."""
    return [(zlib.crc32(str(completion).encode()) % 1000) / 1000 for completion in completions]
