"""Control tasks, learnt by whole iterations in one program: what each seed earns, and how fast it goes.

    python -m experiments.benchmarks.control [--task=cartpole_vmpo] [--core=gtrxl] [--seeds=10] [--steps=250000]

The seeds are mapped over and compiled with the loop; the episodes that ended in the last tenth of the steps count.  A
task is a function below: an environment, an agent, a method with its critic, and how the M-step goes over an unroll.
"""

import argparse
import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gempi_jax import rl
from gempi_jax.em import LineSearch
from gempi_jax.methods import Critic, Features, Method, ppo, vmpo, with_critic
from gempi_jax.methods.virel import ElboCritic, ResidualCritic, virel
from gempi_jax.models import GRU, LSTM, ActionValueHead, CategoricalHead, MLPCore, MLPTorso, gtrxl, trxl, trxl_i
from gempi_jax.numerics.advantages import gae
from gempi_jax.rl.action_values import ActionValueAgent
from gempi_jax.rl.agent import Agent, Trunk
from gempi_jax.runners.control import Control, initial_state, iterate
from gempi_jax.runners.virel import initial_virel_state, iterate_virel
from gempi_jax.training.learn import Passes
from gempi_jax.training.step import Optimizers

SHORTENS = LineSearch(max_scale=1.0)
"""Solved, a task's advantages are noise, and a step that is lengthened to its budget walks away with it."""

ELBO = ElboCritic()
"""CartPole is deterministic and pays 1 for each step: what the gradients of the ELBO need."""


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


def cartpole_virel(steps: int, critic: ElboCritic | ResidualCritic = ELBO) -> Control:
    """CartPole-v1 by VIREL with the gradients of its ELBO: 64 environments x 32 steps, 4 x 8 updates.

    At a scale of 0.1 a policy can become greedy on the first short episodes, whose errors vanish, and stay there.
    """
    environment, agent = _pole()
    agent = ActionValueAgent(agent.trunk, agent.head, ActionValueHead(2), agent.value_trunk)
    passes = Passes(updates_per_epoch=8, num_epochs=4)
    sizes = {"unroll_length": 32, "num_environments": 64, "passes": passes}
    control = _control(environment, agent, virel(0.5, gamma=0.98, critic=critic), steps, 1e-3, **sizes)
    # Actor and critic are clipped apart: the loss of one is E[Q] times as large as that of the other.
    adam = control.optimizers.params
    apart = optax.partition({"policy": adam, "value": adam}, lambda params: {name: name for name in params})
    return control._replace(optimizers=Optimizers(apart, {}))


def cartpole_virel_beta(steps: int) -> Control:
    """The same by the practical variant, whose critic holds what it is regressed on."""
    return cartpole_virel(steps, ResidualCritic())


def _core(name: str, memory_length: int, unroll_length: int):
    """32 numbers wide: what remembers ``memory_length`` steps, or as long as it likes, or nothing."""
    if name in ("lstm", "gru", "mlp"):
        return {"lstm": LSTM(32), "gru": GRU(32), "mlp": MLPCore((32,))}[name]
    sizes = {"num_layers": 2, "num_heads": 2, "mlp_width": 64}
    make = {"gtrxl": gtrxl, "trxl": trxl, "trxl_i": trxl_i}[name]
    return make(32, memory_length=memory_length, unroll_length=unroll_length, **sizes)


def _memory(environment: rl.Environment, steps: int, core: str, memory_length: int, unroll_length: int) -> Control:
    """V-MPO, 16 environments, 4 x 4 updates; the critic shares the core."""
    # Without the last action, in which a policy without a memory could carry what it saw on to the next step.
    trunk = Trunk(MLPTorso((32,)), _core(core, memory_length, unroll_length))
    critic = Critic(gae(0.95), 0.99, Features.SHARED)
    method = with_critic(vmpo(0.1, 0.001, 0.5, enforced=SHORTENS), critic, coefficient=0.5)
    passes = Passes(updates_per_epoch=4, num_epochs=4)
    sizes = {"unroll_length": unroll_length, "num_environments": 16, "passes": passes}
    return _control(environment, Agent(trunk, CategoricalHead(environment.actions.n)), method, steps, 1e-3, **sizes)


def memory_chain(steps: int, core: str) -> Control:
    """bsuite's MemoryChain: a bit is shown once and asked for 20 steps later."""
    return _memory(rl.make("MemoryChain-bsuite", memory_length=20), steps, core, 32, 64)


def proof_of_memory(steps: int, core: str) -> Control:
    """CleanRL's ProofofMemory: which end of a line is good shows for three steps; the optimum is 1.2."""
    return _memory(rl.make("ProofofMemory"), steps, core, 16, 32)


def t_maze(steps: int, core: str) -> Control:
    """A walked T-maze whose corridor has 64 steps."""
    return _memory(rl.make("TMaze", length=64), steps, core, 128, 72)


WITHOUT_MEMORY: dict[str, Callable[[int], Control]] = {
    task.__name__: task
    for task in (cartpole_vmpo, cartpole_vmpo_lengthened, cartpole_ppo, cartpole_virel, cartpole_virel_beta)
}
WITH_MEMORY: dict[str, Callable[[int, str], Control]] = {
    task.__name__: task for task in (memory_chain, proof_of_memory, t_maze)
}
CORES = ("gtrxl", "trxl_i", "trxl", "lstm", "gru", "mlp")


def learn(
    initial: Callable, iteration: Callable, iterations: int, seeds: int
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Mean return [seeds, iterations] of the episodes that ended in each (NaN without), their numbers, and seconds.

    Args:
      initial: key -> the first state.
      iteration: state -> the next one, and metrics.
      iterations: how many.
      seeds: from 0 on.
    """

    def run(key):
        def one(state, _):
            state, metrics = iteration(state)
            return state, metrics["episode/return"]

        return jax.lax.scan(one, initial(key), length=iterations)[1]

    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    begin = time.perf_counter()
    compiled = jax.jit(jax.vmap(run)).lower(keys).compile()
    middle = time.perf_counter()
    returns = jax.block_until_ready(compiled(keys))
    seconds = time.perf_counter() - middle
    sums, numbers = np.asarray(returns.sum), np.asarray(returns.weight)
    return sums, numbers, middle - begin, seconds


def report(name: str, steps: int, sums: np.ndarray, numbers: np.ndarray, compiling: float, seconds: float) -> None:
    """Prints the curve of the mean, every seed's end, and steps a second, of what :func:`learn` returns."""
    seeds = len(sums)
    tenths = np.array_split(np.arange(sums.shape[1]), 10)
    curve = np.stack([sums[:, part].sum(1) / np.maximum(numbers[:, part].sum(1), 1) for part in tenths], axis=1)
    print(f"{name}: {seeds} seeds x {steps} steps; {compiling:.1f} s to compile, {seconds:.1f} s to learn all")
    print(f"  {seeds * steps / seconds:,.0f} steps/s together")
    print("  mean return by tenth of the steps:", " ".join(f"{value:.2f}" for value in curve.mean(0)))
    ends = np.sort(curve[:, -1])
    print("  last tenth by seed, sorted:", " ".join(f"{value:.2f}" for value in ends))


def main(task: str, core: str, seeds: int, steps: int) -> None:
    """Learns a task and reports it."""
    control = WITH_MEMORY[task](steps, core) if task in WITH_MEMORY else WITHOUT_MEMORY[task](steps)
    iterations = steps // (control.unroll_length * control.num_environments)
    of_actions = isinstance(control.agent, ActionValueAgent)
    made = (initial_virel_state, iterate_virel) if of_actions else (initial_state, iterate)
    learnt = learn(*(functools.partial(function, control) for function in made), iterations, seeds)
    report(f"{task}, {core}" if task in WITH_MEMORY else task, steps, *learnt)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=sorted(WITHOUT_MEMORY | WITH_MEMORY), default="cartpole_vmpo")
    parser.add_argument("--core", choices=CORES, default="gtrxl", help="of the tasks that need a memory")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=250_000)
    arguments = parser.parse_args()
    main(arguments.task, arguments.core, arguments.seeds, arguments.steps)
