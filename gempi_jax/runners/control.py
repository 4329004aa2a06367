"""The control world: unrolls as the Samples of an E-step, a policy evaluated on them, one iteration as a pure function.

A unit is an environment with its unroll, an example a step of it, with one term.  :func:`iterate` scans over iterations
and vmaps over seeds.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, PyTree

from gempi_jax.contracts import Counts, Evaluation, Metric, Metrics, Samples
from gempi_jax.methods.base import Needs
from gempi_jax.models import Distribution
from gempi_jax.numerics.checks import require
from gempi_jax.numerics.keys import named_key
from gempi_jax.rl.agent import Agent, Seen, one_step
from gempi_jax.rl.host_env import HostEnvironment
from gempi_jax.rl.unroll import Actors, Unroll, begin, unroll
from gempi_jax.runners.controlparts import Control, check_control, measure
from gempi_jax.training.learn import learn
from gempi_jax.training.state import TrainState
from gempi_jax.training.step import World, finish_iteration, init_dual_opt_state
from gempi_jax.types import Array, Params


def initial_state(control: Control, key: Array) -> TrainState:
    """A run's first state: fresh parameters, environments at the beginning of their first episodes.

    Raises:
      ValueError: parts that do not fit each other, see :func:`check_control`; an environment on the host.
    """
    require(
        not isinstance(control.environment, HostEnvironment),
        f"{control.environment.name} steps on the host, and this iteration is one program of the device; use "
        "runners.hostcontrol.HostIteration.",
    )
    check_control(control)
    return first_state(control, key)


def first_state(control: Control, key: Array) -> TrainState:
    """:func:`initial_state` of parts that have been checked."""
    actors = begin(control.agent, control.environment, named_key(key, "actors"), control.num_environments)
    return fresh_state(control, key, actors.seen, actors)


def fresh_state(control: Control, key: Array, seen: Seen, world: PyTree) -> TrainState:
    """Fresh parameters and duals.

    Args:
      control: what the run is made of, checked.
      key: root key of the run.
      seen: anything of the right shapes, [B, ...].
      world: of the state.
    """
    params = control.agent.init(named_key(key, "params"), one_step(seen))
    duals, zero = control.method.init(), jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        params=params,
        opt_state=control.optimizers.params.init(params),
        duals=duals,
        dual_opt_state=init_dual_opt_state(control.optimizers, duals),
        snapshots={name: jax.tree.map(jnp.copy, params["policy"]) for name in control.method.needs.snapshots},
        key=key,
        skipped=zero,
        skipped_in_a_row=zero,
        method=control.method.init_state(named_key(key, "method")),
        world=world,
    )


def iterate(control: Control, state: TrainState) -> tuple[TrainState, Metrics]:
    """pi_t acts for T steps in B environments, then :func:`gempi_jax.training.learn.learn` on what it met.

    Args:
      control: what the run is made of.
      state: of :func:`initial_state`, or after an iteration.

    Returns:
      The state after it, and metrics.
    """
    actors, steps, episodes = unroll_of(control, state, state.world)
    state, metrics = learn_from(control, state._replace(world=actors), steps)
    return state, metrics | episodes


def unroll_of(
    control: Control, state: TrainState, actors: Actors, *, keep_next: bool = False
) -> tuple[Actors, Unroll, Metrics]:
    """What pi_t does in an iteration; see :func:`gempi_jax.rl.unroll.unroll`."""
    key = unroll_key(state.key, state.step)
    agent, length = control.agent, control.unroll_length
    return unroll(agent, control.environment, acting(state), actors, key, length, keep_next=keep_next)


def acting(state: TrainState) -> Params:
    """Parameters of what acts: pi_t, and V."""
    return {**state.params, "policy": state.snapshots.get("old", state.params["policy"])}


def unroll_key(key: Array, number: Array) -> Array:
    """Of the unroll that the iteration of that number learns from; ``key`` is the run's."""
    return named_key(named_key(key, "iteration", number), "unroll")


def learn_key(state: TrainState) -> Array:
    """Of what an iteration learns: the order of its units."""
    return named_key(named_key(state.key, "iteration", state.step), "learn")


def learn_from(
    control: Control, state: TrainState, steps: Unroll, *, stale: bool = False
) -> tuple[TrainState, Metrics]:
    """What an iteration does with an unroll.

    Args:
      control: what the run is made of.
      state: before it.
      steps: of pi_t, or of a policy b before it.
      stale: whether b acted.  Then weights have the ratio pi_t / b, (23), and the trust region is around pi_t, which
        is evaluated anew; advantages stay those of b.
    """
    agent, method = control.agent, control.method_at(state.step)
    samples = make_samples(agent, method.needs, state, steps, stale=stale)
    params = agent.renormalized(state.params, samples.value_targets)
    learnt = {name: agent.normalized(params, getattr(samples, name)) for name in ("values", "value_targets")}
    state, samples = state._replace(params=params), samples._replace(**learnt)
    world = ControlWorld(agent, method.needs, stale).world()
    key = learn_key(state)
    state, metrics = learn(method, world, control.optimizers, state, steps, samples, key, control.passes)
    return finish(control, state, steps, metrics)


def finish(control: Control, state: TrainState, steps: Unroll, metrics: Metrics) -> tuple[TrainState, Metrics]:
    """The end of an iteration: it is counted, pi_t is refreshed, and how random it was is said."""
    entropy = steps.policy.entropy()
    said = {"entropy": Metric(jnp.sum(entropy), jnp.float32(entropy.size))}
    skipped = metrics["mstep/skipped_fraction"].mean() >= 1.0
    return finish_iteration(state, skipped, old_period=control.old_period), metrics | said


def make_samples(agent: Agent, needs: Needs, state: TrainState, steps: Unroll, *, stale: bool = False) -> Samples:
    """What the E-step sees: advantages by the critic's estimator, log-probs of the policies that it is to stay near.

    Args:
      agent: the networks.
      needs: of the method.
      state: with the snapshots.
      steps: an unroll.
      stale: whether pi_t is not the policy that acted.
    """

    def log_probs(name: str) -> Float[Array, "B T"]:
        if name == "old" and not stale:
            return steps.log_probs
        return agent.act(state.snapshots[name], steps.seen, steps.memories.policy)[0].log_prob(steps.actions)

    ratios = jnp.exp(steps.policy.log_prob(steps.actions) - steps.log_probs)
    advantages, targets = needs.critic.estimator(*steps.steps(needs.critic.gamma), ratios)
    anchors = [log_probs(name) for name in needs.anchors]
    return Samples(
        advantages=advantages,
        sampler_log_probs=steps.log_probs,
        anchor_log_probs=jnp.stack(anchors) if anchors else jnp.zeros((0, *steps.log_probs.shape)),
        rewards=targets,
        values=steps.values,
        value_targets=targets,
    )


class ControlWorld(NamedTuple):
    """How pi_theta is evaluated on unrolls.

    Attributes:
      agent: the networks.
      needs: of the method.
      stale: whether pi_t is not the policy that acted.
    """

    agent: Agent
    needs: Needs
    stale: bool = False

    def world(self) -> World:
        """As the training step takes it."""
        return World(self.evaluate, self.count, self.divergence)

    def count(self, steps: Unroll) -> tuple[Array, Array]:
        """Each step is an example of one term."""
        number = jnp.float32(steps.rewards.size)
        return number, number

    def evaluate(
        self, params: Params, snapshots: dict[str, Params], steps: Unroll, key: Array, counts: Counts
    ) -> Evaluation:
        """pi_theta and V on a part of an update."""
        read = self.agent.read(params, steps.seen, steps.memories)
        region = self.needs.trust_region
        measured = {} if region is None or region.at_end else self._divergence(snapshots, steps, read.policy)
        log_probs = read.policy.log_prob(steps.actions)[..., None]
        return Evaluation(
            log_probs,
            jnp.ones(log_probs.shape, bool),
            {part: values[..., None] for part, values in measured.items()},
            counts,
            steps.log_probs[..., None] if self.needs.ratio else None,
            read.policy.entropy()[..., None] if self.needs.entropy else None,
            self.agent.normalized(params, read.values),
        )

    def divergence(self, params: Params, snapshots: dict[str, Params], steps: Unroll) -> Metrics:
        """D_M of pi_theta, for a line search."""
        policy, *_ = self.agent.act(params["policy"], steps.seen, steps.memories.policy)
        number = jnp.float32(steps.rewards.size)
        parts = self._divergence(snapshots, steps, policy)
        return {part: Metric(values.sum(), number) for part, values in parts.items()}

    def _divergence(self, snapshots: dict[str, Params], steps: Unroll, policy: Distribution) -> dict[str, Array]:
        region = self.needs.trust_region
        frozen = steps.policy  # pi_t acted
        if region.towards != "old" or self.stale:
            frozen = self.agent.act(snapshots[region.towards], steps.seen, steps.memories.policy)[0]
        return measure(region.divergence, jax.lax.stop_gradient(frozen), policy, steps.actions)


__all__ = [
    "Control",
    "ControlWorld",
    "acting",
    "finish",
    "first_state",
    "fresh_state",
    "initial_state",
    "iterate",
    "learn_from",
    "learn_key",
    "make_samples",
    "measure",
    "unroll_key",
    "unroll_of",
]
