"""Networks of runs in environments by their names in a config."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gempi_jax import models
from gempi_jax.methods import METHODS, Features
from gempi_jax.methods.virel import virel
from gempi_jax.models import gates
from gempi_jax.rl import Continuous, Discrete, Environment, HostEnvironment
from gempi_jax.rl.action_values import ActionValueAgent
from gempi_jax.rl.agent import Agent, Trunk
from gempi_jax.runners.build import blame, lookup
from gempi_jax.runners.settings import ControlSettings, NetworkSettings

VIREL = "virel"
CONTROL_METHODS = METHODS | {VIREL: virel}
"""By name: those of the table that have what they need, and VIREL, which has a critic of actions."""

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


__all__ = ["CONTROL_METHODS", "VIREL", "build_agent"]
