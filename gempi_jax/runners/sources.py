"""Where completions come from, and what is known of them."""

from typing import NamedTuple

from gempi_jax.llm.preferences import ANSWERS


class SourceKind(NamedTuple):
    """What the batches of a source hold beside prompts and completions.

    Attributes:
      answers: the columns of a dataset's own completions of a prompt; none where the policy writes them, as many of
        each prompt as wanted.
      rewarded: completions have rewards, of which advantages are made.
    """

    answers: tuple[str, ...]
    rewarded: bool

    @property
    def written(self) -> bool:
        """Whether the policy writes the completions."""
        return not self.answers


SOURCES = {
    "rollout": SourceKind(answers=(), rewarded=True),
    "demonstrations": SourceKind(answers=("completion",), rewarded=False),
    "scored": SourceKind(answers=("completion",), rewarded=True),
    "preferences": SourceKind(answers=ANSWERS, rewarded=True),
}
