"""HalfCheetah-v4 by V-MPO, with and without the KL that its M-step is kept within: the paper's ablation.

    python -m experiments.benchmarks.half_cheetah [--steps=1000000] [--seeds=3] [--without] [--out=half_cheetah.json]

envpool steps MuJoCo on the host; ``--overlapped`` collects while the device learns on the last unroll.  Seeds run one
after another.  The episodes that ended in each twentieth of the steps make a curve.

1 M steps, seeds 0 to 2, one core shared with others, 5,500 to 10,500 steps/s; returns of the last tenth by seed:
with the KL 3080, 2361, 3310, rising to the end; without it 932, 1884, 1900, one of which fell there from 4039.
"""

import argparse
import json
import pathlib
import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from gempi_jax import rl
from gempi_jax.contracts import Metrics
from gempi_jax.em import Anchor, GaussianDivergence, GempiSpec, Lagrangian, Solved, TopK
from gempi_jax.methods import Critic, Features, Method, from_spec, vmpo, with_critic
from gempi_jax.models import GaussianHead, MLPCore, MLPTorso, ValueHead
from gempi_jax.numerics import gaussian_kl
from gempi_jax.numerics.advantages import gae
from gempi_jax.rl.agent import Agent, Trunk
from gempi_jax.runners.controlparts import Control
from gempi_jax.runners.hostcontrol import HostIteration
from gempi_jax.training.learn import Passes
from gempi_jax.training.step import Optimizers
from gempi_jax.types import Array

INSTANCES, UNROLL_LENGTH = 16, 64
PASSES = Passes(updates_per_epoch=4, num_epochs=10)
PARTS = 20
"""Points of the curve."""


class Tens(nn.Module):
    """V counted in tens, for returns of a few hundred: to Adam the same as a tenth of every reward."""

    @nn.compact
    def __call__(self, features: Float[Array, "*N D"]) -> Float[Array, "*N"]:
        return 10.0 * ValueHead()(features)


def make_method(kept: bool) -> Method:
    """V-MPO of a Gaussian policy, ``kept`` within the decoupled KL of pi_t (alpha_mu, alpha_Sigma) or by nothing."""
    epsilon_eta, top_half = 0.1, 0.5
    if kept:
        region = GaussianDivergence(gaussian_kl)
        method = vmpo(epsilon_eta, (0.02, 5e-4), top_half, trust_region=region, enforced=Lagrangian(1.0))
    else:
        anchor = Anchor("old", budget=epsilon_eta)
        method = from_spec(GempiSpec((anchor,), temperature=Solved(), filter=TopK(top_half)))
    return with_critic(method, Critic(gae(0.95), 0.99, Features.OWN), coefficient=0.5)


def make_control(steps: int, seed: int, kept: bool) -> Control:
    """16 instances x 64 steps, 10 x 4 updates; two networks of two layers of 64, on normalised observations."""

    def trunk():
        return Trunk(MLPTorso((64, 64), jnp.tanh), MLPCore(()))

    environment = rl.normalized(rl.make("envpool/HalfCheetah-v4", num_envs=INSTANCES, seed=seed, num_threads=1))
    agent = Agent(trunk(), GaussianHead(6, initial_scale=0.6), Tens(), value_trunk=trunk())
    updates = steps // (UNROLL_LENGTH * INSTANCES) * PASSES.updates_per_epoch * PASSES.num_epochs
    adam = optax.adam(optax.linear_schedule(1e-3, 0.0, updates))
    optimizers = Optimizers(adam, {"multiplier": optax.adam(1e-2)})
    return Control(agent, environment, make_method(kept), optimizers, UNROLL_LENGTH, INSTANCES, PASSES)


def learn(steps: int, seed: int, kept: bool, overlapped: bool) -> dict:
    """One run: its curve, and steps a second once everything is compiled."""
    told = {"seed": seed, "kept": kept, "overlapped": overlapped, "env_steps": [], "return": []}
    iterations = steps // (UNROLL_LENGTH * INSTANCES)
    ends = {part[-1] + 1 for part in np.array_split(np.arange(iterations), PARTS) if part.size}
    total = np.zeros(2)
    with HostIteration(make_control(steps, seed, kept), overlapped=overlapped) as iteration:
        state = iteration.initial_state(jax.random.key(seed))
        for number in range(1, iterations + 1):
            state, metrics = iteration(state)
            total += np.asarray(metrics["episode/return"])
            if number == 1:
                begin = time.perf_counter()
            if number in ends:
                told["env_steps"].append(number * UNROLL_LENGTH * INSTANCES)
                told["return"].append(total[0] / total[1] if total[1] else None)
                said = "no episode ended" if total[1] == 0 else f"{total[0] / total[1]:8.1f}"
                print(
                    f"  {told['env_steps'][-1]:>9,} steps: {said}; entropy {metrics['entropy'].mean():.2f}", flush=True
                )
                total[:] = 0
    told["steps_per_second"] = (iterations - 1) * UNROLL_LENGTH * INSTANCES / (time.perf_counter() - begin)
    return told


def _report(metrics: Metrics) -> str:
    names = ("entropy", "value/explained_variance", "estep/ess_fraction", "mstep/kl/mean", "mstep/kl/covariance")
    return ", ".join(f"{name} {metrics[name].mean():.3g}" for name in names if name in metrics)


def compare(steps: int, seeds: list[int], kept: bool, overlapped: bool, out: str | None) -> None:
    """Prints the curves, and the mean and the spread of their last tenth; adds them to the file."""
    runs = []
    for seed in seeds:
        print(f"seed {seed}, {'with' if kept else 'without'} the KL, {steps} steps", flush=True)
        runs.append(learn(steps, seed, kept, overlapped))
        print(f"  {runs[-1]['steps_per_second']:,.0f} steps/s")
        if out:
            path = pathlib.Path(out)
            before = json.loads(path.read_text()) if path.exists() else []
            path.write_text(json.dumps([*before, runs[-1]], indent=1))
    ends = [np.mean([value for value in run["return"][-PARTS // 10 :] if value is not None]) for run in runs]
    print("last tenth by seed:", " ".join(f"{value:.0f}" for value in ends), f"mean {np.mean(ends):.0f}")


def main(arguments: list[str]) -> None:
    """Reads the arguments and runs what they ask for."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmark half_cheetah", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--without", action="store_true", help="the M-step is kept within nothing")
    parser.add_argument("--overlapped", action="store_true", help="collect while the device learns")
    parser.add_argument("--out", help="a JSON file to which runs are added")
    chosen = parser.parse_args(arguments)
    compare(
        chosen.steps,
        list(range(chosen.first, chosen.first + chosen.seeds)),
        not chosen.without,
        chosen.overlapped,
        chosen.out,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
