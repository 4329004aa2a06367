"""What XLA says of a program: the arrays of its optimised text, and the memory that it plans for."""

import math
import re

_SHAPE = re.compile(r"\b(?:f|bf|s|u)\d+\[([\d,]+)\]")
_ALLOCATION = re.compile(r"^allocation \d+: .*?size (\d+),(.*)$", re.MULTILINE)


def largest_logits(text: str, vocab_size: int) -> tuple[int, str]:
    """Elements and dimensions of the largest array one of whose axes is the vocabulary; (0, "") where there is none."""
    found = {match[1] for match in _SHAPE.finditer(text)}
    sizes = [tuple(map(int, dimensions.split(","))) for dimensions in found]
    logits = [size for size in sizes if vocab_size in size]
    largest = max(logits, key=math.prod, default=())
    return (math.prod(largest), "x".join(map(str, largest))) if largest else (0, "")


def temporary_bytes(text: str) -> int:
    """Of a buffer assignment: bytes that belong neither to arguments nor to results, constants left out."""
    kinds = ("parameter", "output", "maybe-live-out", "constant")
    return sum(int(size) for size, about in _ALLOCATION.findall(text) if not any(kind in about for kind in kinds))
