"""Tokens per CPU second of generation, beside transformers' PyTorch, and with lengths that vary.

    taskset -c 0 env OMP_NUM_THREADS=1 python -m experiments.benchmark generation [tiny 0.107M 5.0M 39.6M] [--torch]
    taskset -c 0 env OMP_NUM_THREADS=1 python -m experiments.benchmark generation --shrink

The first samples at temperature 1 to the full length (no end token) from random Llamas, 16 prompts of 32 tokens and 64
new ones; ``tiny`` is the arithmetic job's rollout, 128 prompts of 28 tokens with 8 samples of 14.  ``--torch`` adds
transformers' ``generate`` on the same shape, in the same run.  ``--shrink`` samples up to 128 tokens from the 5.0 M
model, which ends each completion with probability 1 / 32 per token, with and without ``generate(shrink=)``.
CPU seconds, not wall: compare figures of one run only.
"""

import argparse
import functools
import importlib.util
import time
from typing import Any, NamedTuple

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
RAGGED = {
    f"{groups}x{samples}": CASES["5.0M"]._replace(groups=groups, samples=samples, new=128)
    for groups, samples in ((64, 1), (16, 4), (256, 1), (64, 4))
}
"""Groups x samples, 64 and 256 sequences, for ``--shrink``."""

SHRINKS = ((), (2, 8), (2, 4, 8, 16))
REPETITIONS = 5
END = 0


class Stopping(NamedTuple):
    """A decoder that ends a completion with probability 1 / mean at every token: lengths are geometric."""

    model: Decoder
    mean: float

    @property
    def config(self) -> DecoderConfig:
        """The decoder's."""
        return self.model.config

    @property
    def dtype(self) -> Any:
        """The decoder's."""
        return self.model.dtype

    def apply(self, variables: Any, *args: Any, method: str | None = None, **options: Any) -> Any:
        """As ``Decoder.apply``; the end token's logit is set to the other tokens' log-sum-exp minus log(mean - 1)."""
        output = self.model.apply(variables, *args, method=method, **options)
        if method != "logits":
            return output
        others = jax.nn.logsumexp(output.at[..., END].set(-jnp.inf), axis=-1)
        return output.at[..., END].set(others - jnp.log(self.mean - 1))


def cpu_seconds(run, repetitions: int = REPETITIONS) -> tuple[float, float]:
    """The least CPU time of some calls, and that of one before them, which compiles and warms up."""
    times = []
    for _ in range(1 + repetitions):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times[1:]), times[0]


def decoder(case: Case) -> tuple[Decoder, Any]:
    """A random Llama."""
    config = DecoderConfig(
        vocab_size=case.vocab_size,
        hidden_size=case.width,
        intermediate_size=case.width * 11 // 4,
        num_layers=case.layers,
        num_heads=case.heads,
        tie_embeddings=True,
    )
    model = Decoder(config)
    return model, jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]


def sampler(model, params, case: Case, **options):
    """A function that samples one batch."""
    prompts = jax.random.randint(jax.random.key(1), (case.groups, case.prompt), 0, case.vocab_size)
    lengths = jnp.full((case.groups,), case.prompt)
    run = jax.jit(functools.partial(generate, model, num_samples=case.samples, max_new_tokens=case.new, **options))
    return lambda: jax.block_until_ready(run(params, prompts, lengths, jax.random.key(2)))


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
        return cpu_seconds(lambda: model.generate(prompts, attention_mask=mask, **options))[0]


def full_length(names: list[str], *, beside_torch: bool) -> None:
    """Prints one line per case."""
    absent = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if beside_torch and absent:
        print(f"--torch: skipped, {absent[0]} is not installed", flush=True)
    for name in names or CASES:
        case = CASES[name]
        tokens = case.groups * case.samples * case.new
        per_second = tokens / cpu_seconds(sampler(*decoder(case), case, eos_id=-1))[0]
        line = f"{name:8s} gempi_jax {per_second:9.0f} tokens/s"
        if beside_torch and not absent:
            other = tokens / theirs(case)
            line += f"   transformers {other:9.0f} tokens/s   ratio {per_second / other:.1f}"
        print(line, flush=True)


def ragged(names: list[str]) -> None:
    """Prints one line per batch and way to shrink it."""
    for name in names or RAGGED:
        case = RAGGED[name]
        model, params = decoder(case)
        for shrink in SHRINKS:
            run = sampler(Stopping(model, case.new / 4), params, case, eos_id=END, shrink=shrink)
            seconds, first = cpu_seconds(run, repetitions=2)
            tokens = int(run().lengths.sum())
            print(
                f"{name:8s} shrink {shrink!s:14s} {tokens / seconds:9.0f} tokens/s   {tokens} tokens in "
                f"{seconds:6.2f} s   first call {first:5.1f} s",
                flush=True,
            )


def main(arguments: list[str]) -> None:
    """Reads the arguments and runs what they ask for."""
    parser = argparse.ArgumentParser(prog="benchmark generation")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CASES)}; with --shrink of {', '.join(RAGGED)}")
    parser.add_argument("--torch", action="store_true", help="beside transformers' PyTorch")
    parser.add_argument("--shrink", action="store_true", help="lengths that vary, with and without shrinking")
    options = parser.parse_args(arguments)
    valid = RAGGED if options.shrink else CASES
    unknown = [name for name in options.names if name not in valid]
    if unknown:
        parser.error(f"{unknown[0]!r} is not one of {', '.join(valid)}")
    if options.shrink:
        ragged(options.names)
    else:
        full_length(options.names, beside_torch=options.torch)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
