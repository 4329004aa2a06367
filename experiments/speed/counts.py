"""Operations and bytes that a batch cannot do without, by the shapes alone."""

from experiments.speed.work import Size, Work

BYTES = 2
"""Of a bfloat16 number."""


def layer_weights(size: Size) -> int:
    """Of all layers' matrices."""
    head = size.width // size.heads
    attention = 2 * size.width * head * (size.heads + size.kv_heads)
    return size.layers * (attention + 3 * size.width * size.intermediate)


def forward_flops(size: Size, work: Work) -> float:
    """Of one likelihood pass: each prompt is read once for all of its samples, logits are of completions alone."""
    written = work.prompts * work.samples * work.completion_length
    read = work.prompts * work.prompt_length
    matrices = 2 * layer_weights(size) * (read + written) + 2 * size.vocab_size * size.width * written
    seen = read * work.prompt_length / 2 + written * (work.prompt_length + work.completion_length / 2)
    return matrices + 4 * size.layers * size.width * seen


def update_flops(size: Size, work: Work) -> float:
    """Of a gradient: a pass forward, and twice that backward."""
    return 3 * forward_flops(size, work)


def decode_bytes(size: Size, work: Work) -> float:
    """Read for a whole rollout: every step reads all weights, each prompt's cache once, each completion's so far."""
    token = 2 * size.layers * size.kv_heads * (size.width // size.heads) * BYTES
    weights = BYTES * (layer_weights(size) + size.vocab_size * size.width)
    prompts = work.prompts * work.prompt_length * token
    completions = work.prompts * work.samples * token * work.completion_length / 2
    return work.completion_length * (weights + prompts + completions)
