"""How often training diverges, by core: draws of the learning rate, no gradient clipping (document, appendix B).

    python -m experiments.divergence --output=runs/divergence [--config=configs/rl/memory_chain.py:vmpo] [--draws=25]
      [--steps=50000] [--layers=4] [--memory=64] [--low=1e-4 --high=1e-1]

Parisotto et al. 2019 (figure 5) saw TrXL-I diverge in 16 % of 25 settings, and GTrXL with GRU gates in none.  Each core
learns with the same rates and seeds, all draws of a core in one program.  An update whose loss or gradient is not
finite counts as divergence; it is left out, so that the others can be seen.  Writes ``divergence.json``,
``divergence.svg`` (final returns, ranked) and ``divergence.md``.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from matplotlib.figure import Figure

from experiments.launch import load_config
from experiments.make_report import folder
from gempi_jax.report.tables import Table, number, percent, to_markdown
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.control import initial_state, iterate
from gempi_jax.runners.controlbuild import build_run
from gempi_jax.runners.settings import ControlSettings

CORES = {
    "TrXL": ("trxl", "gru"),
    "TrXL-I": ("trxl_i", "gru"),
    "GTrXL, GRU": ("gtrxl", "gru"),
    "GTrXL, output": ("gtrxl", "output"),
    "LSTM": ("lstm", "gru"),
}
"""By the paper's name: ``config.core`` and ``config.network.gate``."""


LAST = 0.1
"""Share of the iterations whose episodes are the final return."""


def study(settings: ControlSettings, core: str, rates: np.ndarray) -> dict[str, list[float]]:
    """One program for all draws of a core.

    Args:
      settings: of the task and the networks.
      core: a name of ``CORES``.
      rates: learning rate of each draw; draw i has seed i.

    Returns:
      ``final`` (return of each draw), ``skipped`` (share of its updates that were not finite).
    """
    kind, gate = CORES[core]
    network = dataclasses.replace(settings.network, gate=gate)
    control = build_run(dataclasses.replace(settings, core=kind, network=network)).control

    def run(draw):
        key, rate = draw
        # The rate is an argument of the program; nothing clips the gradient.
        adam = optax.chain(optax.scale_by_adam(), optax.scale(-rate))
        drawn = control._replace(optimizers=control.optimizers._replace(params=adam))

        def step(state, _):
            state, metrics = iterate(drawn, state)
            return state, (metrics["episode/return"], metrics["mstep/skipped_fraction"].mean())

        _, (returns, skipped) = jax.lax.scan(step, initial_state(drawn, key), length=settings.num_iterations)
        last = max(1, int(LAST * settings.num_iterations))
        final = returns.sum[-last:].sum() / jnp.maximum(returns.weight[-last:].sum(), 1.0)
        return final, skipped.mean()

    keys = jax.vmap(jax.random.key)(jnp.arange(len(rates)))
    in_turn = jax.default_backend() == "cpu"  # where small networks are faster one after the other
    mapped = jax.jit(lambda draws: jax.lax.map(run, draws) if in_turn else jax.vmap(run)(draws))
    final, skipped = jax.device_get(mapped((keys, jnp.asarray(rates, jnp.float32))))
    return {"final": final.tolist(), "skipped": skipped.tolist()}


def table(found: dict[str, dict[str, list[float]]]) -> Table:
    """One row for each core."""
    rows = []
    for core, result in found.items():
        final, skipped = np.asarray(result["final"]), np.asarray(result["skipped"])
        cells = (percent((skipped > 0).mean()), number(np.median(final), 3), number(final.mean(), 3))
        rows.append((core, str(len(final)), *cells, number(final.max(), 3), f"{result['seconds']:.0f} s"))
    head = ("core", "draws", "diverged", "median final return", "mean", "best", "time, compiling included")
    return Table(head, rows)


def draw(found: dict[str, dict[str, list[float]]], path: pathlib.Path) -> None:
    """Final returns from best to worst, a line for each core."""
    with matplotlib.rc_context({"svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for core, result in found.items():
            ranked = np.sort(result["final"])[::-1]
            axes.plot(1 + np.arange(len(ranked)), ranked, marker="o", markersize=3, label=core)
        axes.set_xlabel("draw of the learning rate, ranked")
        axes.set_ylabel("return at the end")
        axes.legend(frameon=False)
        figure.savefig(path)


def main() -> int:
    """Runs the cores one by one and writes what came out after each."""
    parser = argparse.ArgumentParser(prog="python -m experiments.divergence", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=folder, required=True, help="folder for tables and figures")
    parser.add_argument("--config", default="configs/rl/memory_chain.py:vmpo", help="the task")
    parser.add_argument("--cores", nargs="+", default=list(CORES), choices=CORES)
    parser.add_argument("--draws", type=int, default=25)
    parser.add_argument("--steps", type=int, default=50_000, help="environment steps of each draw")
    parser.add_argument("--layers", type=int, default=4, help="of transformers")
    parser.add_argument("--memory", type=int, default=64, help="steps that transformers remember")
    parser.add_argument("--low", type=float, default=1e-4, help="lowest rate; draws are even in its logarithm")
    parser.add_argument("--high", type=float, default=1e-1, help="highest rate")
    options = parser.parse_args()
    if options.draws < 1 or not 0 < options.low < options.high:
        parser.error("give at least one draw, and 0 < low < high")
    settings = settings_from_config(load_config(options.config))
    network = dataclasses.replace(settings.network, num_layers=options.layers, memory_length=options.memory)
    settings = dataclasses.replace(settings, network=network, env_steps=options.steps)
    generator = np.random.default_rng(0)
    rates = np.exp(generator.uniform(np.log(options.low), np.log(options.high), options.draws))
    options.output.mkdir(parents=True, exist_ok=True)
    found = {}
    for core in options.cores:
        begin = time.perf_counter()
        found[core] = study(settings, core, rates) | {"seconds": time.perf_counter() - begin}
        text = to_markdown(table(found))
        print(text, end="\n\n", flush=True)
        (options.output / "divergence.md").write_text(text + "\n")
        asked = {key: str(value) for key, value in vars(options).items() if key != "output"}
        content = {"settings": asked, "rates": rates.tolist(), "cores": found}
        (options.output / "divergence.json").write_text(json.dumps(content, indent=1))
        draw(found, options.output / "divergence.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
