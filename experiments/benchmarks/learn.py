"""V-MPO by ``training.learn`` against a loop that is written by hand for it, on a policy of two layers.

    python -m experiments.benchmarks.learn [--repeats=9]

Both take 2,048 samples, one E-step with a solved temperature and 16 updates by Adam, compiled; they alternate, and the
fastest and the median of the runs are shown.  ``learn`` also checks what the hand-written loop leaves out: whether a
loss, a gradient or a batch is of any use.  "with metrics" keeps its forty metrics of each iteration, too.
"""

import argparse
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import optax

from gempi_jax import em
from gempi_jax.contracts import Counts, Evaluation, Samples
from gempi_jax.methods import vmpo
from gempi_jax.numerics import categorical_kl
from gempi_jax.training.learn import Passes, learn
from gempi_jax.training.optimizers import ExponentiatedGradient, build
from gempi_jax.training.schedules import Schedule
from gempi_jax.training.state import TrainState
from gempi_jax.training.step import Optimizers, World, init_dual_opt_state

NUM_SAMPLES, UPDATES, WIDTH, INPUTS, ACTIONS = 2048, 16, 64, 8, 6
METHOD = vmpo(epsilon_eta=0.1, epsilon_alpha=0.01, top_k_fraction=0.5, enforced=em.Lagrangian(5.0))
RATE, EPSILON_ETA, EPSILON_ALPHA = 1e-3, 0.1, 0.01


def init(key):
    """Two layers of weights."""
    first, second = jax.random.split(key)
    return {
        "first": jax.random.normal(first, (INPUTS, WIDTH)) / INPUTS**0.5,
        "second": jax.random.normal(second, (WIDTH, ACTIONS)) / WIDTH**0.5,
    }


def log_policy(params, observations):
    """log pi(. | s)."""
    return jax.nn.log_softmax(jnp.tanh(observations @ params["first"]) @ params["second"])


def chosen(log_probs, actions):
    """log pi(a | s)."""
    return jnp.take_along_axis(log_probs, actions[:, None], axis=-1)[:, 0]


def make_batch(key, params):
    """A rollout: observations, actions of the policy with their log-probs, and advantages."""
    keys = jax.random.split(key, 3)
    observations = jax.random.normal(keys[0], (NUM_SAMPLES, INPUTS))
    log_probs = log_policy(params, observations)
    actions = jax.random.categorical(keys[1], log_probs)
    return observations, actions, chosen(log_probs, actions), jax.random.normal(keys[2], (NUM_SAMPLES,))


def evaluate(params, snapshots, batch, key, counts: Counts) -> Evaluation:
    """pi_theta on a part of the batch."""
    observations, actions = batch
    log_q = log_policy(params["policy"], observations)
    log_p = log_policy(snapshots["old"], observations)
    log_probs = chosen(log_q, actions)[:, None]
    return Evaluation(log_probs, jnp.ones_like(log_probs, bool), {"kl": categorical_kl(log_p, log_q)[:, None]}, counts)


def by_learn():
    """The state that the library's step starts from, and the step: (state, batch, key) -> state, metrics."""
    duals = build(ExponentiatedGradient(Schedule(0.3)), 10**6)
    optimizers = Optimizers(optax.adam(RATE), {"temperature": duals, "multiplier": duals})
    world = World(evaluate, lambda batch: (jnp.float32(batch[1].shape[0]),) * 2)

    def start(params):
        state, zero, own = {"policy": params}, jnp.zeros((), jnp.int32), METHOD.init()
        opt_state = optimizers.params.init(state)
        dual_opt_state = init_dual_opt_state(optimizers, own)
        return TrainState(zero, state, opt_state, own, dual_opt_state, {"old": params}, jax.random.key(0), zero, zero)

    def step(state, batch, key):
        observations, actions, log_probs, advantages = batch
        state = state._replace(snapshots={"old": state.params["policy"]})
        samples = Samples(advantages, log_probs, log_probs[None])
        passes = Passes(updates_per_epoch=UPDATES)
        return learn(METHOD, world, optimizers, state, (observations, actions), samples, key, passes)

    return start, step


def by_hand():
    """The same by hand: top half, solved temperature, weighted likelihood, KL with its multiplier."""
    adam = optax.adam(RATE)

    def start(params):
        return params, adam.init(params), jnp.float32(5.0)

    def step(state, batch, key):
        params, opt_state, alpha = state
        old, (observations, actions, _, advantages) = params, batch
        selected = em.top_k_mask(advantages, 0.5)
        ratios = jnp.zeros((1, NUM_SAMPLES))
        eta = em.solve_temperature(jnp.array([EPSILON_ETA]), advantages, ratios, where=selected).coefficients
        weights = jax.nn.softmax(jnp.where(selected, advantages / eta[0], -jnp.inf))
        order = jax.random.permutation(key, NUM_SAMPLES).reshape(UPDATES, -1)

        def loss(params, alpha, rows):
            log_q = log_policy(params, observations[rows])
            nll = -UPDATES * (weights[rows] * chosen(log_q, actions[rows])).sum()
            kl = categorical_kl(log_policy(old, observations[rows]), log_q).mean()
            return nll + alpha * kl, kl

        def update(carry, rows):
            params, opt_state, alpha = carry
            gradient, kl = jax.grad(loss, has_aux=True)(params, alpha, rows)
            updates, opt_state = adam.update(gradient, opt_state)
            alpha = jnp.clip(alpha * jnp.exp(0.3 * jnp.minimum(kl / EPSILON_ALPHA - 1.0, 2.0)), 1e-8, 1e3)
            return (optax.apply_updates(params, updates), opt_state, alpha), None

        return jax.lax.scan(update, (params, opt_state, alpha), order)[0], ()

    return start, step


def seconds(function, *args) -> float:
    """Of one call, until its result is there."""
    begin = time.perf_counter()
    jax.block_until_ready(function(*args))
    return time.perf_counter() - begin


def main(arguments: list[str]) -> None:
    """Prints both times and their ratio."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark learn", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args(arguments).repeats
    params, key = init(jax.random.key(0)), jax.random.key(1)
    batch = make_batch(jax.random.key(2), params)
    iterations = 20
    runs = {}
    both = {"learn": by_learn(), "with metrics": by_learn(), "by hand": by_hand()}
    for name, (start, step) in both.items():

        def run(state, step=step, keep=name == "with metrics"):
            def iteration(state, key):
                state, metrics = step(state, batch, key)
                return state, metrics if keep else ()

            return jax.lax.scan(iteration, state, jax.random.split(key, iterations))

        runs[name] = jax.jit(run).lower(start(params)).compile(), start(params)
    times = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, (function, state) in runs.items():
            times[name].append(seconds(function, state) / iterations)
    print(f"V-MPO, {NUM_SAMPLES} samples, {UPDATES} updates, ms an iteration ({repeats} runs, alternating):")
    for name, values in times.items():
        fastest = min(values[1:])
        ratio = statistics.median(a / b for a, b in zip(values[1:], times["by hand"][1:], strict=True))
        print(
            f"  {name:12} fastest {1e3 * fastest:.3f}  median {1e3 * statistics.median(values[1:]):.3f}  "
            f"of by hand {fastest / min(times['by hand'][1:]):.3f} (fastest), {ratio:.3f} (median of pairs)"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
