"""The E-step on N = 10^6 samples against ``rlax.vmpo_loss`` on the same data, in the same run.

    python -m experiments.benchmark estep [--number=1000000] [--repeats=5]

Times are CPU milliseconds of the process (best and worst of the repeats), and the best as a multiple of one pass over
the data: reading N float32 numbers and adding them up.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gempi_jax import em
from gempi_jax.contracts import Samples
from gempi_jax.numerics import top_k_mask


def measure(function: Callable, *arguments, repeats: int) -> tuple[float, float, float]:
    """CPU milliseconds of a compiled call, best and worst of a few, and megabytes of its temporary arrays."""
    compiled = jax.jit(function).lower(*arguments).compile()
    jax.block_until_ready(compiled(*arguments))
    times = []
    for _ in range(repeats):
        start = time.process_time()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.process_time() - start)
    return 1e3 * min(times), 1e3 * max(times), compiled.memory_analysis().temp_size_in_bytes / 2**20


def data(number: int) -> Samples:
    """Normal advantages; the first anchor is the sampler, the second has drifted by 0.2 nats."""
    rng = np.random.default_rng(0)
    sampler = rng.normal(-50.0, 5.0, number)
    drifted = sampler + 0.2 * rng.normal(size=number) - 0.02
    arrays = (rng.normal(size=number), sampler, np.stack([sampler, drifted]))
    return Samples(*(jnp.asarray(x, jnp.float32) for x in arrays))


def rlax_step(fraction: float) -> Callable | None:
    """Weights and the temperature's gradient by rlax; ``None`` where it is not installed."""
    try:
        import rlax
    except ImportError:
        return None

    def step(advantages):
        zeros = jnp.zeros_like(advantages)
        fixed = rlax.LagrangePenalty(jnp.float32(1.0), jnp.float32(0.1))

        def loss(temperature):
            constraint = rlax.LagrangePenalty(temperature, jnp.float32(0.1))
            value, outputs = rlax.vmpo_loss(zeros, advantages, constraint, [(zeros, fixed)], top_k_fraction=fraction)
            return jnp.mean(value), outputs.normalized_weights

        return jax.grad(loss, has_aux=True)(jnp.float32(1.0))

    return step


def cases(samples: Samples) -> dict[str, tuple[Callable, tuple]]:
    """What is timed, by name."""
    one = samples._replace(anchor_log_probs=samples.anchor_log_probs[:1])
    budgets = (em.Anchor("old", budget=0.1), em.Anchor("ref", budget=0.1))
    zeros = jnp.zeros_like(samples.anchor_log_probs)
    ratios = samples.anchor_log_probs - samples.sampler_log_probs[None]
    duals = {"temperature": jnp.ones(1)}

    def step(anchors, temperature):
        spec = em.GempiSpec(anchors, temperature, em.TopK(0.5))

        def run(duals, samples):
            def loss(duals):
                target = em.e_step(spec, duals, samples)
                return target.dual_loss, target

            return jax.grad(loss, has_aux=True)(duals)

        return run

    return {
        "one pass over the data": (jnp.sum, (samples.advantages,)),
        "top-k half": (lambda a: top_k_mask(a, 0.5), (samples.advantages,)),
        "top-k half, binary scores": (lambda a: top_k_mask(jnp.sign(a), 0.5), (samples.advantages,)),
        "solve, 1 anchor": (
            lambda a, r: em.solve_temperature(jnp.array([0.1]), a, r),
            (samples.advantages, zeros[:1]),
        ),
        "solve, 2 anchors": (
            lambda a, r: em.solve_temperature(jnp.array([0.1, 0.1]), a, r),
            (samples.advantages, ratios),
        ),
        "E-step, 1 anchor, gradient of the dual": (step(budgets[:1], em.Dual()), (duals, one)),
        "E-step, 1 anchor, solved": (step(budgets[:1], em.Solved()), ({}, one)),
        "E-step, 2 anchors, solved": (step(budgets, em.Solved()), ({}, samples)),
    }


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Prints a table; returns the milliseconds by case."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark estep", description=__doc__)
    parser.add_argument("--number", type=int, default=1_000_000, help="samples")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    samples = data(options.number)
    timed = cases(samples)
    reference = rlax_step(0.5)
    if reference is not None:
        timed["rlax.vmpo_loss, weights and gradient"] = (reference, (samples.advantages,))
    results = {}
    print(f"{'case':42s} {'CPU ms':>9s} {'worst':>8s} {'passes':>8s} {'temporary MiB':>14s}")
    for name, (function, values) in timed.items():
        results[name], worst, memory = measure(function, *values, repeats=options.repeats)
        passes = results[name] / results["one pass over the data"]
        print(f"{name:42s} {results[name]:9.2f} {worst:8.2f} {passes:8.0f} {memory:14.1f}", flush=True)
    if reference is not None:
        for name in ("E-step, 1 anchor, solved", "E-step, 2 anchors, solved"):
            ratio = results["rlax.vmpo_loss, weights and gradient"] / results[name]
            print(f"{name} with diagnostics: {ratio:.1f} times as fast as rlax with none")
    return results


if __name__ == "__main__":
    main()
