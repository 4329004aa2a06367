"""The control world with a replay: steps of earlier policies as the Samples of an E-step.

With V (AWR) a unit is a replayed unroll, an example a step of it.  With Q (MPO) a unit is a replayed state, its
examples are actions that pi_t samples there, or all that there are.  :func:`iterate_replayed` scans over iterations and
vmaps over seeds, as :func:`gempi_jax.runners.control.iterate` does.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from gempi_jax.contracts import Counts, Evaluation, Metric, Metrics, Samples
from gempi_jax.methods.base import Needs
from gempi_jax.models import Distribution
from gempi_jax.numerics.keys import named_key
from gempi_jax.rl.agent import Agent, Seen, one_step
from gempi_jax.rl.replay import Replay, Transitions, add, empty, reread, sample, transitions
from gempi_jax.rl.unroll import Actors
from gempi_jax.runners import actionvalues
from gempi_jax.runners.control import acting, finish, first_state, learn_from, learn_key, unroll_of
from gempi_jax.runners.controlparts import measure
from gempi_jax.runners.offpolicyparts import Replayed, check_replayed
from gempi_jax.training.learn import learn
from gempi_jax.training.state import TrainState
from gempi_jax.training.step import World
from gempi_jax.types import Array, Params


class Stored(NamedTuple):
    """``TrainState.world`` of a run with a replay.

    Attributes:
      actors: what goes on between two unrolls.
      replay: the ring.
      critic: Q; ``()`` where V is learnt.
    """

    actors: Actors
    replay: Replay
    critic: actionvalues.Fitted | tuple[()]


def initial_state(replayed: Replayed, key: Array) -> TrainState:
    """A run's first state: fresh parameters, environments at their beginnings, an empty ring.

    Raises:
      ValueError: parts that do not fit each other, see :func:`check_replayed`.
    """
    check_replayed(replayed)
    control, critic = replayed.control, replayed.critic
    state = first_state(control, key)
    actors = state.world
    met = jax.eval_shape(lambda state: unroll_of(control, state, actors, keep_next=True)[1], state)
    q = ()
    if critic is not None:
        seen = one_step(actors.seen)
        q = actionvalues.initial(critic, control.environment.actions, seen, named_key(key, "critic"))
    return state._replace(world=Stored(actors, empty(transitions(met), replayed.capacity), q))


def iterate_replayed(replayed: Replayed, state: TrainState) -> tuple[TrainState, Metrics]:
    """pi_t acts for T steps in B environments, which the ring takes in; then one is learnt from that it gives out.

    With V it is learnt from replayed unrolls as from others, see :func:`gempi_jax.runners.control.learn_from`, with V
    and targets of the present critic.  The anchor "old" is then the mixture of policies that wrote the replay, as AWR
    has it (Peng et al. 2019, section 3.2): it sampled, so that no ratio is in the weights.  A trust region holds the
    policy near pi_t.

    Args:
      replayed: what the run is made of.
      state: of :func:`initial_state`, or after an iteration.

    Returns:
      The state after it, and metrics.
    """
    control = replayed.control
    key = named_key(state.key, "iteration", state.step)
    actors, met, episodes = unroll_of(control, state, state.world.actors, keep_next=True)
    replay = add(state.world.replay, transitions(met))
    steps = sample(replay, key, replayed.batch)
    state = state._replace(world=state.world._replace(actors=actors, replay=replay))
    if replayed.critic is None:
        state, metrics = learn_from(control, state, reread(control.agent, acting(state), steps))
    else:
        state, metrics = learn_by_action_values(replayed, state, steps, key)
        state, metrics = finish(control, state, met, metrics)
    return state, metrics | episodes


class StateActions(NamedTuple):
    """S states of a replay, each with K actions.

    Attributes:
      seen: [S, 1, ...].
      actions: of pi_t, or all.
      policy: pi_t, [S, 1].
    """

    seen: Seen
    actions: Array
    policy: Distribution


def learn_by_action_values(
    replayed: Replayed, state: TrainState, steps: Transitions, key: Array
) -> tuple[TrainState, Metrics]:
    """Policy evaluation, then the E-step on the Q of pi_t's actions in each replayed state, then the M-step."""
    control, critic = replayed.control, replayed.critic
    agent, method, environment = control.agent, control.method_at(state.step), control.environment
    pi_t = acting(state)["policy"]
    goals = actionvalues.targets(
        critic, state.world.critic.target, agent, pi_t, environment.actions, steps, named_key(key, "next_actions")
    )
    fitted, of_critic = actionvalues.fit(critic, state.world.critic, steps, goals, named_key(key, "critic"))
    seen = actionvalues.by_state(steps.seen)
    policy = agent.act(pi_t, seen, agent.initial_memories(len(seen.resets)).policy)[0]
    actions = actionvalues.draw(critic, environment.actions, policy, named_key(key, "actions"))
    batch = StateActions(seen, actions, policy)
    samples = make_state_samples(replayed, state.snapshots, batch, fitted.params)
    fitted = actionvalues.refresh(critic, fitted, state.step + 1)
    state = state._replace(world=state.world._replace(critic=fitted))
    world = StateWorld(agent, method.needs).world()
    state, metrics = learn(method, world, control.optimizers, state, batch, samples, learn_key(state), control.passes)
    return state, metrics | of_critic


def make_state_samples(replayed: Replayed, snapshots: dict[str, Params], batch: StateActions, q: Params) -> Samples:
    """What the E-step sees [S, K]: Q as advantages, and log-probs of the policies that it is to stay near.

    Where all actions are there, each is there once: b is uniform, and pi_t the weight of (23) beside e^(Q / eta).

    Args:
      replayed: what the run is made of.
      snapshots: the frozen policies.
      batch: states and actions.
      q: parameters of Q.
    """
    control, critic = replayed.control, replayed.critic
    agent, needs = control.agent, control.method.needs
    values = critic.network.apply({"params": q}, batch.seen.observations[:, 0], batch.actions)
    old = batch.policy.log_prob(batch.actions)

    def log_probs(name: str) -> Float[Array, "S K"]:
        if name == "old":
            return old
        nothing = agent.initial_memories(len(batch.actions)).policy
        return agent.act(snapshots[name], batch.seen, nothing)[0].log_prob(batch.actions)

    costs = None
    if needs.bounds:
        outside = batch.actions - jnp.clip(
            batch.actions, *(x[None, None] for x in control.environment.actions.bounds())
        )
        costs = -jnp.linalg.norm(outside.reshape(*outside.shape[:2], -1), axis=-1)
    uniform = jnp.full_like(old, -jnp.log(jnp.float32(old.shape[-1])))
    anchors = [log_probs(name) for name in needs.anchors]
    return Samples(
        advantages=values,
        sampler_log_probs=uniform if critic.num_samples is None else old,
        anchor_log_probs=jnp.stack(anchors) if anchors else jnp.zeros((0, *old.shape)),
        rewards=values,
        bounds_costs=costs,
    )


class StateWorld(NamedTuple):
    """How pi_theta is evaluated on actions of states.

    Attributes:
      agent: the networks.
      needs: of the method.
    """

    agent: Agent
    needs: Needs

    def world(self) -> World:
        """As the training step takes it."""
        return World(self.evaluate, self.count, self.divergence)

    def count(self, batch: StateActions) -> tuple[Array, Array]:
        """Each action is an example of one term."""
        number = jnp.float32(batch.actions.shape[0] * batch.actions.shape[1])
        return number, number

    def evaluate(
        self, params: Params, snapshots: dict[str, Params], batch: StateActions, key: Array, counts: Counts
    ) -> Evaluation:
        """pi_theta on a part of an update; what is of the state stands beside each of its actions."""
        policy, region = self._policy(params["policy"], batch), self.needs.trust_region
        measured = {} if region is None or region.at_end else self._divergence(snapshots, batch, policy)
        log_probs = policy.log_prob(batch.actions)[..., None]

        def beside(values: Float[Array, "S k"]) -> Float[Array, "S K 1"]:
            return jnp.broadcast_to(values[..., None], log_probs.shape)

        return Evaluation(
            log_probs,
            jnp.ones(log_probs.shape, bool),
            {part: beside(values) for part, values in measured.items()},
            counts,
            entropy=beside(policy.entropy()) if self.needs.entropy else None,
        )

    def divergence(self, params: Params, snapshots: dict[str, Params], batch: StateActions) -> Metrics:
        """D_M of pi_theta, for a line search."""
        parts = self._divergence(snapshots, batch, self._policy(params["policy"], batch))
        return {part: Metric(values.sum(), jnp.float32(values.size)) for part, values in parts.items()}

    def _policy(self, policy: Params, batch: StateActions) -> Distribution:
        return self.agent.act(policy, batch.seen, self.agent.initial_memories(len(batch.actions)).policy)[0]

    def _divergence(
        self, snapshots: dict[str, Params], batch: StateActions, policy: Distribution
    ) -> dict[str, Float[Array, "S k"]]:
        region = self.needs.trust_region
        frozen = batch.policy if region.towards == "old" else self._policy(snapshots[region.towards], batch)
        return measure(region.divergence, jax.lax.stop_gradient(frozen), policy, batch.actions)


__all__ = ["Replayed", "StateActions", "StateWorld", "Stored", "initial_state", "iterate_replayed"]
