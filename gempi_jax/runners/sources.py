"""Where completions come from, and what is known of them."""

from typing import NamedTuple


class SourceKind(NamedTuple):
    """What the batches of a source hold beside prompts and completions.

    Attributes:
      written: the policy writes the completions, as many of each prompt as wanted; a dataset has one.
      rewarded: completions have rewards, of which advantages are made.
    """

    written: bool
    rewarded: bool


SOURCES = {
    "rollout": SourceKind(written=True, rewarded=True),
    "demonstrations": SourceKind(written=False, rewarded=False),
    "scored": SourceKind(written=False, rewarded=True),
}
