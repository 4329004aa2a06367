"""Control tasks, learnt by whole iterations in one program: what each seed earns, and how fast it goes.

    python -m experiments.benchmarks.control [--task=cartpole_vmpo] [--seeds=10] [--steps=250000]

The seeds are mapped over and compiled with the loop; the episodes that ended in the last tenth of the steps count.  A
task is a function below: an environment, an agent, a method with its critic, and how the M-step goes over an unroll.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gempi_jax import rl
from gempi_jax.em import LineSearch
from gempi_jax.methods import Critic, Features, Method, ppo, vmpo, with_critic
from gempi_jax.models import CategoricalHead, MLPCore, MLPTorso, gtrxl
from gempi_jax.numerics.advantages import gae
from gempi_jax.rl.agent import Agent, Trunk
from gempi_jax.runners.control import Control, initial_state, iterate
from gempi_jax.training.learn import Passes
from gempi_jax.training.step import Optimizers

SHORTENS = LineSearch(max_scale=1.0)
"""Solved, a task's advantages are noise, and a step that is lengthened to its budget walks away with it."""


def _control(environment, agent: Agent, method: Method, steps: int, rate: float, **sizes) -> Control:
    passes = sizes["passes"]
    iterations = steps // (sizes["unroll_length"] * sizes["num_environments"])
    updates = iterations * passes.updates_per_epoch * passes.num_epochs
    adam = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(optax.linear_schedule(rate, 0.0, updates)))
    return Control(agent, environment, method, Optimizers(adam, {}), **sizes)


def _pole() -> tuple[rl.Environment, Agent]:
    def trunk():
        return Trunk(MLPTorso((64, 64), jnp.tanh), MLPCore(()))

    return rl.make("CartPole-v1"), Agent(trunk(), CategoricalHead(2), value_trunk=trunk())


def cartpole_vmpo(steps: int, search: LineSearch = SHORTENS) -> Control:
    """CartPole-v1: two networks of two layers, 64 environments x 32 steps, 2 x 8 updates."""
    critic = Critic(gae(0.95), 0.99, Features.OWN)
    method = with_critic(vmpo(0.02, 0.005, 0.5, enforced=search), critic, coefficient=0.5)
    sizes = {"unroll_length": 32, "num_environments": 64, "passes": Passes(updates_per_epoch=8, num_epochs=2)}
    return _control(*_pole(), method, steps, 1e-3, **sizes)


def cartpole_vmpo_lengthened(steps: int) -> Control:
    """The same with the search of language models, which lengthens steps to their budget, too."""
    return cartpole_vmpo(steps, LineSearch(max_scale=4.0))


def cartpole_ppo(steps: int) -> Control:
    """CartPole-v1 by PPO: 16 environments x 64 steps, 4 x 4 updates, entropy 0.01."""
    method = ppo(0.2, 0.0, 0.95, 0.99, value_coefficient=0.5, entropy_coefficient=0.01, features=Features.OWN)
    sizes = {"unroll_length": 64, "num_environments": 16, "passes": Passes(updates_per_epoch=4, num_epochs=4)}
    return _control(*_pole(), method, steps, 1e-3, **sizes)


def memory_chain(steps: int, length: int = 20, memory: int = 32, search: LineSearch = SHORTENS) -> Control:
    """bsuite's MemoryChain by V-MPO with a GTrXL: a bit is shown once and asked for ``length`` steps later."""
    environment, unroll_length = rl.make("MemoryChain-bsuite", memory_length=length), 64
    sizes = {"num_layers": 2, "num_heads": 2, "mlp_width": 64, "memory_length": memory, "unroll_length": unroll_length}
    trunk = Trunk(MLPTorso((32,)), gtrxl(32, **sizes))
    critic = Critic(gae(0.95), 0.99, Features.SHARED)
    method = with_critic(vmpo(0.1, 0.001, 0.5, enforced=search), critic, coefficient=0.5)
    passes = Passes(updates_per_epoch=4, num_epochs=4)
    agent = Agent(trunk, CategoricalHead(environment.actions.n))
    sizes = {"unroll_length": unroll_length, "num_environments": 16, "passes": passes}
    return _control(environment, agent, method, steps, 1e-3, **sizes)


TASKS: dict[str, Callable[[int], Control]] = {
    task.__name__: task for task in (cartpole_vmpo, cartpole_vmpo_lengthened, cartpole_ppo, memory_chain)
}


def learn(control: Control, seeds: int, steps: int) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Mean return [seeds, iterations] of the episodes that ended in each (NaN without), their numbers, and seconds."""
    iterations = steps // (control.unroll_length * control.num_environments)

    def run(key):
        def iteration(state, _):
            state, metrics = iterate(control, state)
            return state, metrics["episode/return"]

        return jax.lax.scan(iteration, initial_state(control, key), length=iterations)[1]

    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    begin = time.perf_counter()
    compiled = jax.jit(jax.vmap(run)).lower(keys).compile()
    middle = time.perf_counter()
    returns = jax.block_until_ready(compiled(keys))
    seconds = time.perf_counter() - middle
    sums, numbers = np.asarray(returns.sum), np.asarray(returns.weight)
    return sums, numbers, middle - begin, seconds


def main(task: str, seeds: int, steps: int) -> None:
    """Prints the curve of the mean, every seed's end, and steps a second."""
    sums, numbers, compiling, seconds = learn(TASKS[task](steps), seeds, steps)
    tenths = np.array_split(np.arange(sums.shape[1]), 10)
    curve = np.stack([sums[:, part].sum(1) / np.maximum(numbers[:, part].sum(1), 1) for part in tenths], axis=1)
    print(f"{task}: {seeds} seeds x {steps} steps; {compiling:.1f} s to compile, {seconds:.1f} s to learn all")
    print(f"  {seeds * steps / seconds:,.0f} steps/s together")
    print("  mean return by tenth of the steps:", " ".join(f"{value:.2f}" for value in curve.mean(0)))
    ends = np.sort(curve[:, -1])
    print("  last tenth by seed, sorted:", " ".join(f"{value:.2f}" for value in ends))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=sorted(TASKS), default="cartpole_vmpo")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=250_000)
    arguments = parser.parse_args()
    main(arguments.task, arguments.seeds, arguments.steps)
