"""On an accelerator: model FLOPs utilisation of the M-step, and bandwidth of decoding, in bfloat16, random weights.

    python -m experiments.benchmark accelerator [qwen2.5-0.5B llama-3.2-1B] [--turns 5]

The M-step is GRPO's, 8 prompts of 256 tokens with 8 samples of 256; its operations are those of one pass and its
gradient (no recomputation counts).  Decoding is the rollout of the same 64 sequences, and of a single one; its bytes
are weights and caches in bfloat16, read once per step, and its time holds the prompts' pass, too.  Peak figures are the
maker's by the device's name, else measured.  Wall seconds.  Without an accelerator a toy model walks the same path.
"""

import pathlib
import statistics
from typing import Any

import jax

from experiments.speed import show
from experiments.speed.compare import parser, read
from experiments.speed.counts import decode_bytes, update_flops
from experiments.speed.driver import Worker, alternate, scratch
from experiments.speed.folder import write_folder
from experiments.speed.work import SIZES, Job, Size, Work

SHAPES = {
    "toy": SIZES["toy"],
    "qwen2.5-0.5B": Size(151936, 896, 4864, 24, 14, 2),
    "llama-3.2-1B": Size(128256, 2048, 8192, 16, 32, 8),
}
BATCH = Work(prompts=8, samples=8, prompt_length=256, completion_length=256)
TOY = Work(prompts=4, samples=2, prompt_length=16, completion_length=16)
BFLOAT16 = {"config.model.dtype": "bfloat16"}


def main(arguments: list[str]) -> dict[str, dict[str, Any]]:
    """Prints the figures; returns them by shape."""
    # The workers have the device; this process only writes their models.
    jax.config.update("jax_platforms", "cpu")
    form = parser("accelerator", __doc__, ("ours",), sizes=(), table=SHAPES)
    options = read(form, arguments, table=SHAPES)
    with Worker(Job("ours", "roofline", "", "", SHAPES["toy"], TOY, platform="")) as worker:
        peak = {name: value for name, value in worker.turn().items() if name in ("flops", "bandwidth", "source")}
    real = peak["source"].startswith("maker")
    print(f"peak: {peak['flops'] / 1e12:.3g} TFLOP/s, {peak['bandwidth'] / 1e9:.0f} GB/s ({peak['source']})")
    names = options.sizes or [name for name in SHAPES if (name != "toy") == real]
    results = {}
    for name in names:
        results[name] = _measure(name, SHAPES[name], TOY if name == "toy" else BATCH, peak, options.turns or 5)
    show.write_json(options.output / "accelerator.json", "accelerator", {"peak": peak, "shapes": results})
    shares = ("mfu", "decode_share", "decode_share_of_one")
    panels = {name: [(share, *3 * (100 * row[share],)) for share in shares] for name, row in results.items()}
    show.write_bars(options.output / "accelerator.png", panels, "% of the peak")
    return results


def _measure(name: str, size: Size, work: Work, peak: dict[str, Any], turns: int) -> dict[str, float]:
    single = Work(1, 1, work.prompt_length, work.completion_length)
    with scratch() as folder:
        write_folder(pathlib.Path(folder), size, work)
        rl = Job("ours", "rl", "grpo", folder, size, work, platform="", settings=BFLOAT16)
        one = Job("ours", "generation", "rollout", folder, size, single, platform="", settings=BFLOAT16)
        # One after the other: a process takes most of a device's memory.
        (whole,), (alone,) = alternate([rl], turns), alternate([one], turns)
    m_step = statistics.median(turn["timing_s/m_step"] for turn in whole.turns)
    generate = statistics.median(turn["timing_s/generate"] for turn in whole.turns)
    lone = statistics.median(turn["wall_s"] for turn in alone.turns)
    row = {
        "m_step_s": m_step,
        "mfu": update_flops(size, work) / m_step / peak["flops"],
        "generate_s": generate,
        "decode_share": decode_bytes(size, work) / generate / peak["bandwidth"],
        "generate_one_s": lone,
        "decode_share_of_one": decode_bytes(size, single) / lone / peak["bandwidth"],
    }
    print(
        f"{name}: M-step {m_step:.4f} s, MFU {row['mfu']:.1%}; {work.prompts * work.samples} sequences in "
        f"{generate:.3f} s, {row['decode_share']:.1%} of the bandwidth; one in {lone:.3f} s, "
        f"{row['decode_share_of_one']:.1%}",
        flush=True,
    )
    return row
