"""From the settings of a run in environments to what it is made of; the control world's strings end here."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gempi_jax import models
from gempi_jax.contracts import Metrics
from gempi_jax.methods import METHODS, Critic, Features, Method, with_critic, with_entropy
from gempi_jax.methods.virel import virel
from gempi_jax.models import gates
from gempi_jax.numerics import advantages
from gempi_jax.numerics.backups import n_step_backup
from gempi_jax.numerics.checks import require
from gempi_jax.rl import Continuous, Discrete, Environment, HostEnvironment, make, normalized
from gempi_jax.rl.action_values import ActionValueAgent
from gempi_jax.rl.agent import Agent, Trunk
from gempi_jax.rl.registry import ON_THE_HOST
from gempi_jax.runners import offpolicy
from gempi_jax.runners import virel as virel_runner
from gempi_jax.runners.actionvalues import QCritic
from gempi_jax.runners.build import blame, lookup, make_method
from gempi_jax.runners.control import initial_state, iterate
from gempi_jax.runners.controlparts import Control, check_control
from gempi_jax.runners.offpolicyparts import Replayed, check_replayed
from gempi_jax.runners.optimizers import action_value_optimizer, control_optimizers
from gempi_jax.runners.settings import ControlSettings, CriticSettings, NetworkSettings
from gempi_jax.training.learn import Passes
from gempi_jax.training.state import TrainState
from gempi_jax.types import Array

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
GATES = {
    "gru": gates.GRUGate,
    "output": gates.OutputGate,
    "input": gates.InputGate,
    "highway": gates.HighwayGate,
    "sigmoid_tanh": gates.SigmoidTanhGate,
}
TORSOS: dict[str, Callable[[NetworkSettings], Any]] = {
    "mlp": lambda s: models.MLPTorso(s.torso_widths, lookup(ACTIVATIONS, s.activation, "config.network.activation")),
    "cnn": lambda s: models.CNNTorso(
        s.channels, (3,) * len(s.channels), (1,) * len(s.channels), s.torso_widths, s.scale
    ),
    "resnet": lambda s: models.ResNetTorso(s.channels, s.torso_widths, s.scale),
}
ESTIMATORS: dict[str, Callable[[CriticSettings], advantages.Estimator]] = {
    "gae": lambda s: advantages.gae(s.lam),
    "unroll_returns": lambda s: advantages.unroll_returns(),
    "n_step_returns": lambda s: advantages.n_step_returns(s.n),
}
VIREL = "virel"
CONTROL_METHODS = METHODS | {VIREL: virel}
"""By name: those of the table that have what they need, and VIREL, which has a critic of actions."""

OF_THE_CRITIC = ("lam", "gamma", "features", "value_coefficient", "value_clip")
"""Arguments of methods that bring a critic of their own, by which it is set for language."""


def _transformer(s: NetworkSettings, unroll_length: int) -> dict[str, Any]:
    sizes = {name: getattr(s, name) for name in ("num_layers", "num_heads", "mlp_width", "memory_length")}
    return sizes | {"unroll_length": unroll_length, "dtype": lookup(DTYPES, s.dtype, "config.network.dtype")}


CORES: dict[str, Callable[[NetworkSettings, int], Any]] = {
    "gtrxl": lambda s, length: models.gtrxl(
        s.width, lookup(GATES, s.gate, "config.network.gate"), **_transformer(s, length)
    ),
    "trxl_i": lambda s, length: models.trxl_i(s.width, **_transformer(s, length)),
    "trxl": lambda s, length: models.trxl(s.width, **_transformer(s, length)),
    "lstm": lambda s, length: models.LSTM(s.width),
    "gru": lambda s, length: models.GRU(s.width),
    "mlp": lambda s, length: models.MLPCore((s.width,) if s.width else ()),
}


class Made(NamedTuple):
    """A run's parts and what they do: both functions scan, and seeds are mapped over.

    Attributes:
      control: the parts.
      initial_state: key -> the first state.
      iterate: state -> the next one, and metrics.
    """

    control: Control
    initial_state: Callable[[Array], TrainState]
    iterate: Callable[[TrainState], tuple[TrainState, Metrics]]


def build_run(settings: ControlSettings) -> Made:
    """What a run is made of.

    Raises:
      ValueError: unknown names (with the nearest valid one), values out of range, or parts that do not fit each other.
      ImportError: the environment's package is not installed.
    """
    method, environment = build_method(settings), build_environment(settings)
    control = Control(
        build_agent(settings, environment),
        environment,
        method,
        control_optimizers(settings)[0],
        unroll_length=settings.unroll_length,
        num_environments=settings.num_environments,
        passes=Passes(
            updates_per_epoch=settings.updates_per_epoch,
            num_epochs=settings.num_epochs,
            num_dual_steps=settings.duals.num_temperature_steps,
        ),
        old_period=settings.old_period,
    )
    with blame("config"):
        if settings.method == VIREL:
            require(settings.replay.capacity == 0, "replay.capacity: virel learns from each unroll once; set it to 0.")
            virel_runner.check_virel(control)
            functions = virel_runner.initial_virel_state, virel_runner.iterate_virel
            return Made(control, *(functools.partial(function, control) for function in functions))
        if settings.replay.capacity:
            replayed = _replayed(settings, control)
            check_replayed(replayed)
            functions = offpolicy.initial_state, offpolicy.iterate_replayed
            return Made(control, *(functools.partial(function, replayed) for function in functions))
        require(
            not control.method.needs.by_group,
            f"method is {settings.method!r}, which compares the actions of one state: on a replay, by Q, it can; give "
            "replay.capacity.",
        )
        check_control(control)
    return Made(control, *(functools.partial(function, control) for function in (initial_state, iterate)))


def _replayed(settings: ControlSettings, control: Control) -> Replayed:
    replay, asked, actions = settings.replay, settings.action_values, control.environment.actions
    if not control.method.needs.by_group:
        return Replayed(control, replay.capacity, replay.batch)
    torso = models.MLPTorso(asked.torso_widths)
    if isinstance(actions, Discrete):
        network = models.DiscreteValues(torso, actions.n)
    else:
        network = models.ContinuousValues(torso, *(tuple(map(float, bound.ravel())) for bound in actions.bounds()))
    critic = QCritic(
        network,
        action_value_optimizer(settings),
        settings.critic.gamma,
        n_step_backup(asked.n),
        asked.num_samples or None,
        control.passes,
        asked.period,
    )
    return Replayed(control, replay.capacity, replay.batch, critic)


def build_environment(settings: ControlSettings) -> Environment | HostEnvironment:
    """Where the policy acts; of those on the host as many instances as ``num_environments``.

    Raises:
      ValueError, ImportError: see :func:`build_control`.
    """
    asked, options = settings.environment, dict(settings.environment.options)
    if asked.name.partition("/")[0] in ON_THE_HOST:
        options = {"num_envs": settings.num_environments, "seed": settings.seed} | options
    with blame("config.environment"):
        environment = make(asked.name, **options)
    host = isinstance(environment, HostEnvironment)
    if asked.normalize and not host:
        raise ValueError(
            f"config.environment.normalize = True: {asked.name} is written in JAX and shown as it is; set it to False"
        )
    return normalized(environment) if asked.normalize else environment


def build_method(settings: ControlSettings) -> Method:
    """The method of a run with the critic of ``config.critic``.

    Raises:
      ValueError: see :func:`build_control`; also where ``method_args`` sets the critic, which is set elsewhere.
    """
    named = [name for name in OF_THE_CRITIC if name in settings.method_args]
    if named:
        raise ValueError(
            f"config.method_args.{named[0]}: a critic of steps is set in config.critic; take it out of method_args"
        )
    critic = settings.critic
    with blame("config.critic"):
        estimator = lookup(ESTIMATORS, critic.estimator, "config.critic.estimator")(critic)
        features = lookup({each.value: each for each in Features}, critic.features, "config.critic.features")
    made = Critic(estimator, critic.gamma, features)
    own = {"value_coefficient": critic.coefficient, "value_clip": critic.value_clip or None}
    if settings.method == VIREL:
        arguments = dict(settings.method_args) | {"gamma": critic.gamma}
        return make_method("config", VIREL, arguments, CONTROL_METHODS)
    needs = lookup(CONTROL_METHODS, settings.method, "config.method")().needs
    takes = needs.critic is not None
    method = make_method("config", settings.method, dict(settings.method_args) | (own if takes else {}))
    if needs.by_group:
        return with_entropy(method, settings.entropy_coefficient)
    with blame("config.method"):
        if takes:
            method = method._replace(needs=method.needs._replace(critic=made))
        else:
            method = with_critic(method, made, coefficient=critic.coefficient, value_clip=critic.value_clip or None)
    with blame("config.entropy_coefficient"):
        return with_entropy(method, settings.entropy_coefficient)


def build_agent(settings: ControlSettings, environment: Environment | HostEnvironment) -> Agent:
    """The networks, for an environment's actions.

    Raises:
      ValueError: see :func:`build_control`.
    """
    network, actions = settings.network, environment.actions

    def trunk() -> Trunk:
        with blame("config.network"):
            torso = lookup(TORSOS, network.torso, "config.network.torso")(network)
            core = lookup(CORES, settings.core, "config.core")(network, settings.unroll_length)
        return Trunk(torso, core, network.previous, actions.n if isinstance(actions, Discrete) else None)

    own = settings.critic.features == Features.OWN.value
    if settings.method == VIREL:
        if not own or not isinstance(actions, Discrete):
            raise ValueError(
                "config.method = 'virel': its critic is Q of discrete actions, of a network of its own; "
                f"critic.features is {settings.critic.features!r} and the environment has {actions}; set "
                "critic.features to 'own'"
            )
        return ActionValueAgent(trunk(), _head(network, actions), models.ActionValueHead(actions.n), trunk())
    if METHODS[settings.method]().needs.by_group:  # Q is beside the agent, and V not asked for
        return Agent(trunk(), _head(network, actions))
    return Agent(
        trunk(),
        _head(network, actions),
        models.PopArtHead() if settings.critic.popart else models.ValueHead(),
        value_trunk=trunk() if own else None,
        detached=settings.critic.features == Features.DETACHED.value,
        popart=settings.critic.popart or None,
    )


def _head(network: NetworkSettings, actions: Discrete | Continuous):
    if isinstance(actions, Discrete):
        return models.CategoricalHead(actions.n)
    if len(actions.shape) != 1:
        raise ValueError(f"config.environment.name: its actions are {actions}; a policy serves vectors of numbers")
    size = actions.shape[0]
    with blame("config.network.distribution"):
        heads = {
            "gaussian": lambda: models.GaussianHead(size, network.initial_scale),
            "tanh_gaussian": lambda: models.TanhGaussianHead(size, actions.low, actions.high, network.initial_scale),
        }
        return lookup(heads, network.distribution, "config.network.distribution")()


__all__ = ["CONTROL_METHODS", "OF_THE_CRITIC", "Made", "build_run"]
