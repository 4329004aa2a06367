"""EM policy iteration and tabular VIREL on random decision processes, exactly: how many updates the optimum takes.

    python -m experiments.em_policy_iteration --output=runs/em_policy_iteration [--seeds=10] [--only=old_0.1,virel]

Prints a table in Markdown and writes it as ``table.md``, with ``gaps.svg`` and ``results.json``, into the output.  A
gap is what the policy lacks of the best return, in units of what the uniform policy lacks, a mean over the seeds.
"""

import argparse
import functools
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from experiments import make_report
from gempi_jax.em import Anchor, GempiSpec, Solved
from gempi_jax.numerics import CHI_SQUARED, named_key
from gempi_jax.rl import tabular, tabular_virel
from gempi_jax.rl.em_iteration import em_policy_iteration
from gempi_jax.rl.tabular import TabularMDP
from gempi_jax.rl.tabular_virel import Virel, actor_backup, boltzmann_backup
from gempi_jax.types import Array

REACHED = 0.01
"""The gap at which the optimum counts as reached."""


class Sizes(NamedTuple):
    """Of the processes and runs.

    Attributes:
      states, actions, discount: of each process.
      iterations: of EM policy iteration.
      records: points of a curve of VIREL.
      steps: VIREL's between two of them.
    """

    states: int
    actions: int
    discount: float
    iterations: int
    records: int
    steps: int


class Curve(NamedTuple):
    """A run; its axis is what was recorded, from before the first update on.

    Attributes:
      updates: made by then.
      returns: J of the policy.
      temperatures: Lambda or epsilon, units of return.
      least_gain: the worst change between two records of what an update is to raise, in any state, units of return.
      optimal: whether the last policy's likeliest actions are best ones.
    """

    updates: Array
    returns: Array
    temperatures: Array
    least_gain: Array
    optimal: Array


Case = Callable[[TabularMDP, Array, Sizes], Curve]


def em(mdp: TabularMDP, key: Array, sizes: Sizes, spec: GempiSpec) -> Curve:
    """From the uniform policy, which is pi_ref too."""
    found = em_policy_iteration(mdp, spec, tabular.uniform_policy(mdp), sizes.iterations)
    temperatures = found.coefficients.sum(-1)
    return Curve(
        jnp.arange(sizes.iterations + 1),
        tabular.policy_return(mdp, found.values),
        jnp.concatenate([temperatures[:1], temperatures]),
        jnp.diff(found.objectives, axis=0).min(),
        tabular.is_optimal(mdp, found.log_policies[-1], tabular.optimal_values(mdp)),
    )


def virel(mdp: TabularMDP, key: Array, sizes: Sizes, scale: float, backup, batch_size: int = 0) -> Curve:
    """From a critic that is 1 everywhere; on minibatches where there is a batch size."""
    pairs = sizes.states * sizes.actions
    # Half of where a critic of the largest values there can be would no longer be stable.
    rate = 0.5 * pairs * (1.0 - mdp.discount) / (scale * (1.0 + mdp.discount) ** 2)
    actor_rate = 3.0 * sizes.states
    settings = Virel(scale, 2.0, actor_rate, pairs / 12.0 if batch_size else rate, backup)

    def step(tables, number):
        if batch_size:
            return tabular_virel.virel_beta_step(
                mdp, settings, tables, named_key(key, "step", number), batch_size
            ), None
        return tabular_virel.virel_step(mdp, settings, tables), None

    def record(tables, start):
        values = tabular.policy_values(mdp, tables.log_policy)
        after, _ = jax.lax.scan(step, tables, start + jnp.arange(sizes.steps))
        return after, (values, tables.temperature, tables.log_policy)

    updates = sizes.steps * jnp.arange(sizes.records + 1)
    _, (values, temperatures, log_policies) = jax.lax.scan(record, tabular_virel.virel_tables(mdp, 1.0), updates)
    return Curve(
        updates,
        tabular.policy_return(mdp, values),
        temperatures.at[0].set(temperatures[1]),
        jnp.diff(values, axis=0).min(),
        tabular.is_optimal(mdp, log_policies[-1], tabular.optimal_values(mdp)),
    )


def _em(*anchors: Anchor, solved: bool = False) -> Case:
    return functools.partial(em, spec=GempiSpec(anchors, Solved()) if solved else GempiSpec(anchors))


CASES: dict[str, Case] = {
    **{f"old_{price:g}": _em(Anchor("old", price)) for price in (0.01, 0.1, 1.0)},
    "old_chi2_0.1": _em(Anchor("old", 0.1, divergence=CHI_SQUARED)),
    **{f"budget_{budget:g}": _em(Anchor("old", budget=budget), solved=True) for budget in (0.01, 0.1)},
    "old_0.1_ref_0.1": _em(Anchor("old", 0.1), Anchor("ref", 0.1)),
    **{
        f"virel_{scale:g}": functools.partial(virel, scale=scale, backup=boltzmann_backup) for scale in (0.1, 1.0, 10.0)
    },
    "virel_actor_1": functools.partial(virel, scale=1.0, backup=actor_backup),
    **{
        f"beta_{scale:g}": functools.partial(virel, scale=scale, backup=actor_backup, batch_size=64)
        for scale in (0.1, 1.0)
    },
}
"""Prices of pi_k under KL or chi-squared, budgets of it, pi_ref beside it; c of VIREL, and beta of its minibatches."""


def measure(case: Case, seeds: int, sizes: Sizes) -> dict:
    """Gaps [seeds, records] and what is said of them."""

    def run(seed):
        key = jax.random.key(seed)
        mdp = tabular.random_mdp(named_key(key, "mdp"), sizes.states, sizes.actions, sizes.discount)
        curve = case(mdp, named_key(key, "run"), sizes)
        best = tabular.policy_return(mdp, tabular.optimal_values(mdp))
        least = tabular.policy_return(mdp, tabular.policy_values(mdp, tabular.uniform_policy(mdp)))
        return curve._replace(returns=(best - curve.returns) / (best - least))

    curve = jax.tree.map(np.asarray, jax.jit(jax.vmap(run))(jnp.arange(seeds)))
    gaps = np.maximum(curve.returns, 0.0)
    reached = [
        int(curve.updates[seed, np.argmax(row)]) if row.any() else None for seed, row in enumerate(gaps <= REACHED)
    ]
    return {
        "updates": curve.updates[0].tolist(),
        "gap_mean": gaps.mean(0).tolist(),
        "gap_low": gaps.min(0).tolist(),
        "gap_high": gaps.max(0).tolist(),
        "final_gaps": gaps[:, -1].tolist(),
        "reached": reached,
        "optimal": curve.optimal.tolist(),
        "temperature_mean": curve.temperatures.mean(0).tolist(),
        "least_gain": float(curve.least_gain.min()),
    }


def table(results: dict[str, dict]) -> str:
    """One row each, in Markdown."""
    head = ("method", f"updates to a gap of {REACHED:g}", "seeds that reach it", "final gap", "its worst seed")
    lines = [(*head, "seeds whose last policy is optimal", "last temperature", "least gain in any state"), ("---",) * 8]
    for name, found in results.items():
        seeds, reached = len(found["reached"]), [number for number in found["reached"] if number is not None]
        updates = f"{np.mean(reached):.0f} ({min(reached)} to {max(reached)})" if reached else "-"
        gaps = found["final_gaps"]
        shares = (f"{len(reached)} of {seeds}", f"{np.mean(gaps):.1e}", f"{max(gaps):.1e}")
        ends = (f"{sum(found['optimal'])} of {seeds}", f"{found['temperature_mean'][-1]:.1e}")
        lines.append((name, updates, *shares, *ends, f"{found['least_gain']:.1e}"))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figure(results: dict[str, dict], path: pathlib.Path) -> None:
    """Gaps against updates, EM policy iteration beside VIREL, and VIREL's temperatures."""
    picture = Figure(figsize=(13.0, 3.8), layout="constrained")
    FigureCanvasSVG(picture)
    axes = picture.subplots(1, 3)
    learnt = {name: found for name, found in results.items() if name.startswith(("virel", "beta"))}
    iterated = {name: found for name, found in results.items() if name not in learnt}
    for axis, title, shown, curve, label in (
        (axes[0], "EM policy iteration", iterated, "gap_mean", "gap"),
        (axes[1], "tabular VIREL", learnt, "gap_mean", "gap"),
        (axes[2], "its temperature", learnt, "temperature_mean", "units of return"),
    ):
        axis.set(title=title, xlabel="updates", ylabel=label, yscale="log", xscale="symlog")
        for name, found in shown.items():
            values = np.maximum(found[curve], 1e-8)
            (line,) = axis.plot(found["updates"], values, label=name)
            if curve == "gap_mean":
                low, high = (np.maximum(found[end], 1e-8) for end in ("gap_low", "gap_high"))
                axis.fill_between(found["updates"], low, high, color=line.get_color(), alpha=0.12, linewidth=0)
        if shown and curve == "gap_mean":
            axis.legend(fontsize="small", frameon=False)
    picture.savefig(path, format="svg", metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cases, one program each."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.em_policy_iteration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", required=True, type=make_report.folder, help="a folder, made if there is none")
    parser.add_argument("--seeds", type=int, default=10, help="processes: 0, 1, ...")
    parser.add_argument("--states", type=int, default=10)
    parser.add_argument("--actions", type=int, default=4)
    parser.add_argument("--discount", type=float, default=0.9)
    parser.add_argument("--iterations", type=int, default=300, help="of EM policy iteration")
    parser.add_argument("--steps", type=int, default=30_000, help="of VIREL")
    parser.add_argument("--only", default=",".join(CASES), help="cases, separated by commas")
    options = parser.parse_args(arguments)
    names = options.only.split(",")
    unknown = [name for name in names if name not in CASES]
    if unknown or min(options.seeds, options.states, options.actions, options.iterations, options.steps) < 1:
        parser.error(f"there is no case {unknown}; choose from {list(CASES)}" if unknown else "numbers are at least 1")
    if not 0.0 <= options.discount < 1.0:
        parser.error(f"--discount is {options.discount}: give one in [0, 1)")
    records = min(options.steps, 300)
    sizes = Sizes(
        options.states, options.actions, options.discount, options.iterations, records, options.steps // records
    )
    results = {name: measure(CASES[name], options.seeds, sizes) for name in names}
    options.output.mkdir(parents=True, exist_ok=True)
    settings = {**sizes._asdict(), "seeds": options.seeds}
    (options.output / "results.json").write_text(
        json.dumps({"settings": settings, "results": results}, indent=1) + "\n"
    )
    (options.output / "table.md").write_text(table(results) + "\n")
    figure(results, options.output / "gaps.svg")
    print(table(results))
    print(f"Curves: {options.output / 'gaps.svg'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
