"""Iterations where environments step on the host: as in JAX where they alternate, exact where they overlap."""

import functools
import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gempi_jax import methods
from gempi_jax.em import LineSearch
from gempi_jax.methods import Critic, Features, with_critic
from gempi_jax.models import CategoricalHead, MLPCore, MLPTorso
from gempi_jax.numerics.advantages import gae
from gempi_jax.rl import EnvironmentFailed, HostEnvironment, make, normalized
from gempi_jax.rl.agent import Agent, Trunk
from gempi_jax.runners.control import ControlWorld, initial_state, iterate, make_samples
from gempi_jax.runners.controlparts import Control
from gempi_jax.runners.hostcontrol import HostIteration
from gempi_jax.training.learn import Passes
from gempi_jax.training.step import Optimizers
from tests.rl.corridors import HostCorridor, corridor, host_corridor

NUMBER, LENGTH = 4, 5
CRITIC = Critic(gae(0.95), 0.99, Features.OWN)
METHOD = with_critic(methods.vmpo(0.1, 0.01, 0.5, enforced=LineSearch(1.0)), CRITIC)


def control(environment, *, method=METHOD, number=NUMBER, length=LENGTH, optimizer=None, **settings):
    def trunk():
        return Trunk(MLPTorso((16,), jnp.tanh), MLPCore(()))

    agent = Agent(trunk(), CategoricalHead(2), value_trunk=trunk())
    # Adam's first steps are signs of gradients, which rounding may turn.
    optimizers = Optimizers(optimizer or optax.sgd(0.1), {})
    return Control(agent, environment, method, optimizers, length, number, **settings)


@pytest.fixture(autouse=True, scope="module")
def fast():
    """Tiny arrays: compiling is all that these tests cost."""
    quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", quick)
        yield


@pytest.fixture(scope="module")
def shared():
    """The first state, and what is compiled, of all that differ in their environments alone."""
    alternating, overlapped = (HostIteration(control(host_corridor(NUMBER)), overlapped=x) for x in (False, True))
    state = alternating.initial_state(jax.random.key(0))
    return state, alternating._pieces, (alternating._learn, overlapped._learn)


def iterating(shared, environment, *, overlapped=True):
    iteration = HostIteration(control(environment), overlapped=overlapped)
    _, iteration._pieces, learns = shared
    iteration._learn = learns[overlapped]
    return iteration


def test_alternating_is_the_iteration_in_jax(shared):
    ours = control(corridor())
    step = jax.jit(lambda state: iterate(ours, state))
    expected = jax.jit(lambda key: initial_state(ours, key))(jax.random.key(0))
    state, *_ = shared
    with iterating(shared, host_corridor(NUMBER), overlapped=False) as iteration:
        for _ in range(3):
            state, metrics = iteration(state)
            expected, wanted = step(expected)
    assert state.world == ()
    for name in ("params", "opt_state", "duals", "snapshots", "step", "skipped"):
        chex.assert_trees_all_close(getattr(state, name), getattr(expected, name), rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(metrics, wanted, rtol=1e-3, atol=1e-4)


def test_overlapped_acts_by_the_policy_before_and_weighs_by_the_ratio_to_it(shared):
    agent, needs, state = control(corridor()).agent, METHOD.needs, shared[0]
    with iterating(shared, host_corridor(NUMBER)) as iteration:
        learn, learnt = iteration._learn, []
        iteration._learn = lambda *arguments: learnt.append(arguments) or learn(*arguments)
        for _ in range(3):
            state, metrics = iteration(state)
    for number, (before, steps) in enumerate(learnt):
        acted = learnt[max(number - 1, 0)][0].params["policy"]
        chex.assert_trees_all_equal(before.snapshots["old"], before.params["policy"])
        behaviour, *_ = agent.act(acted, steps.seen, steps.memories.policy)
        np.testing.assert_allclose(behaviour.log_prob(steps.actions), steps.log_probs, atol=1e-5)
        samples = make_samples(agent, needs, before, steps, stale=True)
        policy, *_ = agent.act(before.params["policy"], steps.seen, steps.memories.policy)
        np.testing.assert_allclose(samples.anchor_log_probs[0], policy.log_prob(steps.actions), atol=1e-5)
        np.testing.assert_array_equal(samples.sampler_log_probs, steps.log_probs)
        ratio = np.abs(samples.anchor_log_probs[0] - samples.sampler_log_probs).max()
        assert (ratio > 1e-3) == (number > 0)  # the first two unrolls are both of the first policy
        around = ControlWorld(agent, needs, stale=True).divergence(before.params, before.snapshots, steps)
        np.testing.assert_allclose(around["kl"].mean(), 0.0, atol=1e-7)
    # What the last iteration was limited in is the way from pi_t, not from what acted.
    after, *_ = agent.act(state.params["policy"], steps.seen, steps.memories.policy)
    np.testing.assert_allclose(metrics["mstep/kl"].mean(), policy.kl(after)["kl"].mean(), rtol=0.02)
    assert abs(behaviour.kl(after)["kl"].mean() / policy.kl(after)["kl"].mean() - 1) > 0.1
    # The unrolls go on where the last ended.
    first, second = learnt[0][1], learnt[1][1]
    np.testing.assert_array_equal(second.seen.rewards[:, 0], first.rewards[:, -1])
    # One policy made both, of other random numbers.
    assert (np.asarray(first.actions) != np.asarray(second.actions)).any()


class Gated(HostCorridor):
    """Its steps wait for the gate to open."""

    def __init__(self, number):
        super().__init__(number)
        self.gate, self.waiting = threading.Event(), threading.Event()
        self.gate.set()

    def step(self, actions):
        self.waiting.set()
        assert self.gate.wait(60)
        return super().step(actions)


def test_the_device_learns_while_environments_step(shared):
    driver = Gated(NUMBER)
    with iterating(shared, HostEnvironment(driver)) as iteration:
        state, _ = iteration(shared[0])
        iteration._next.result()
        driver.gate.clear()
        driver.waiting.clear()
        state, metrics = iteration(state)  # on what was collected before the gate closed
        assert float(metrics["mstep/skipped_fraction"].mean()) == 0
        assert driver.waiting.wait(60)
        assert not iteration._next.done()
        driver.gate.set()
        assert iteration._next.result().steps.rewards.shape == (NUMBER, LENGTH)
    assert driver.closed


@pytest.mark.parametrize("overlapped", [True, False])
@pytest.mark.parametrize(
    ("failing", "message"),
    [
        ("raises", "instance 1 died at step 12: ZeroDivisionError"),
        ("reward", "instance 1 gave the reward nan at step 12"),
    ],
)
def test_a_failure_ends_the_iteration_and_not_the_run(shared, overlapped, failing, message):
    state, *_ = shared
    with iterating(shared, host_corridor(NUMBER, failing=failing, at=12), overlapped=overlapped) as iteration:
        for _ in range(2):  # ten steps; the third unroll has the thirteenth
            state, _ = iteration(state)
        with pytest.raises(EnvironmentFailed, match=message):
            iteration(state)
    with iterating(shared, host_corridor(NUMBER), overlapped=overlapped) as iteration:
        state, metrics = iteration(state)
    assert int(state.step) == 3
    assert np.isfinite(float(metrics["loss"].mean()))


@pytest.mark.parametrize("overlapped", [True, False])
def test_cart_pole_is_learnt(overlapped):
    """A random policy balances the pole for 22 steps or so."""
    pytest.importorskip("gymnasium")
    pole = make("gymnasium/CartPole-v1", num_envs=16, seed=0)
    passes = Passes(updates_per_epoch=4, num_epochs=4)
    method = with_critic(methods.vmpo(0.1, 0.02, 0.5, enforced=LineSearch(1.0)), CRITIC, coefficient=0.5)
    ours = control(pole, number=16, length=32, optimizer=optax.adam(3e-3), method=method, passes=passes)
    lengths = []
    with HostIteration(ours, overlapped=overlapped) as iteration:
        state = iteration.initial_state(jax.random.key(0))
        for _ in range(30):
            state, metrics = iteration(state)
            lengths.append(np.asarray(metrics["episode/length"]))
    (first, number), (last, other) = np.sum(lengths[:5], axis=0), np.sum(lengths[-5:], axis=0)
    assert first / number < 40
    assert last / other > 80, (first / number, last / other)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"corridor is a Environment; what steps in JAX .*runners.control.iterate"):
        HostIteration(control(corridor()))
    with host_corridor(3) as three:
        with pytest.raises(ValueError, match="corridor on the host has 3 instances, and num_environments is 4"):
            HostIteration(control(three))
        with pytest.raises(ValueError, match=r"steps on the host, .*use runners.hostcontrol.HostIteration"):
            initial_state(control(three, number=3), jax.random.key(0))


def test_what_the_environment_carries_is_in_the_state(shared):
    def made():
        return normalized(host_corridor(NUMBER))

    with made() as untouched:
        state = shared[0]._replace(world=untouched.carried)
    for number in (1, 2):  # each with an environment of its own
        with iterating(shared, made(), overlapped=False) as iteration:
            iteration._learn = lambda state, *_: (state, {})
            state, _ = iteration(state)
        # What was seen: at the beginning, and then once a step.
        assert float(state.world[0]) == number * NUMBER * (1 + LENGTH)
