"""Tokens per CPU second of generation, beside transformers' PyTorch ``generate`` in the same run.

    taskset -c 0 env OMP_NUM_THREADS=1 python -m experiments.benchmarks.generation [tiny 0.107M 5.0M 39.6M]

Both sides sample at temperature 1 to the full length (no end token) from random Llamas of one shape, 16 prompts of 32
tokens and 64 new ones; ``tiny`` is the arithmetic job's rollout, 128 prompts of 28 tokens with 8 samples of 14.
CPU seconds, not wall: compare figures of one run only.
"""

import functools
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gempi_jax.llm import generate
from gempi_jax.models import Decoder, DecoderConfig


class Case(NamedTuple):
    """One model and one batch."""

    vocab_size: int
    width: int
    layers: int
    heads: int
    groups: int
    samples: int
    prompt: int
    new: int


CASES = {
    "tiny": Case(150, 128, 2, 4, groups=128, samples=8, prompt=28, new=14),
    "0.107M": Case(512, 64, 2, 4, groups=16, samples=1, prompt=32, new=64),
    "5.0M": Case(8192, 256, 4, 4, groups=16, samples=1, prompt=32, new=64),
    "39.6M": Case(32000, 512, 8, 8, groups=16, samples=1, prompt=32, new=64),
}
REPETITIONS = 5


def cpu_seconds(run) -> float:
    """The least CPU time of some calls after one that compiles and warms up."""
    run()
    times = []
    for _ in range(REPETITIONS):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def ours(case: Case) -> float:
    """CPU seconds of one batch."""
    config = DecoderConfig(
        vocab_size=case.vocab_size,
        hidden_size=case.width,
        intermediate_size=case.width * 11 // 4,
        num_layers=case.layers,
        num_heads=case.heads,
        tie_embeddings=True,
    )
    model = Decoder(config)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    prompts = jax.random.randint(jax.random.key(1), (case.groups, case.prompt), 0, case.vocab_size)
    lengths = jnp.full((case.groups,), case.prompt)
    run = jax.jit(functools.partial(generate, model, num_samples=case.samples, max_new_tokens=case.new, eos_id=-1))
    return cpu_seconds(lambda: jax.block_until_ready(run(params, prompts, lengths, jax.random.key(2))))


def theirs(case: Case) -> float:
    """CPU seconds of one batch in PyTorch, with the prompts repeated for their samples as users of it must."""
    import torch
    import transformers

    torch.set_num_threads(1)
    config = transformers.LlamaConfig(
        vocab_size=case.vocab_size,
        hidden_size=case.width,
        intermediate_size=case.width * 11 // 4,
        num_hidden_layers=case.layers,
        num_attention_heads=case.heads,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    prompts = torch.randint(case.vocab_size, (case.groups, case.prompt)).repeat_interleave(case.samples, 0)
    mask = torch.ones_like(prompts)
    options = {"do_sample": True, "top_k": 0, "max_new_tokens": case.new, "min_new_tokens": case.new}
    with torch.no_grad():
        return cpu_seconds(lambda: model.generate(prompts, attention_mask=mask, **options))


def main(names: list[str]) -> None:
    """Prints one line per case."""
    for name in names or CASES:
        case = CASES[name]
        tokens = case.groups * case.samples * case.new
        ours_per_second, theirs_per_second = tokens / ours(case), tokens / theirs(case)
        print(
            f"{name:8s} gempi_jax {ours_per_second:9.0f} tokens/s   transformers {theirs_per_second:9.0f} tokens/s   "
            f"ratio {ours_per_second / theirs_per_second:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
