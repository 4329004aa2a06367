"""From the settings of a run in environments to what it is made of; the control world's strings end here."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gempi_jax import models
from gempi_jax.methods import METHODS, Critic, Features, Method, with_critic, with_entropy
from gempi_jax.models import gates
from gempi_jax.numerics import advantages
from gempi_jax.rl import Continuous, Discrete, Environment, HostEnvironment, make, normalized
from gempi_jax.rl.agent import Agent, Trunk
from gempi_jax.rl.registry import ON_THE_HOST
from gempi_jax.runners.build import blame, lookup, make_method
from gempi_jax.runners.controlparts import Control, check_control
from gempi_jax.runners.optimizers import control_optimizers
from gempi_jax.runners.settings import ControlSettings, CriticSettings, NetworkSettings
from gempi_jax.training.learn import Passes

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


def build_control(settings: ControlSettings) -> Control:
    """What a run is made of.

    Raises:
      ValueError: unknown names (with the nearest valid one), values out of range, or parts that do not fit each other.
      ImportError: the environment's package is not installed.
    """
    environment = build_environment(settings)
    agent = build_agent(settings, environment)
    optimizers, _ = control_optimizers(settings)
    control = Control(
        agent,
        environment,
        build_method(settings),
        optimizers,
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
        check_control(control)
    return control


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
    takes = lookup(METHODS, settings.method, "config.method")().needs.critic is not None
    method = make_method("config", settings.method, dict(settings.method_args) | (own if takes else {}))
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


__all__ = ["build_agent", "build_control", "build_method"]
