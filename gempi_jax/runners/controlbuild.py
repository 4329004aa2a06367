"""From the settings of a run in environments to what it is made of; the control world's strings end here."""

import functools
import math
import operator
from collections.abc import Callable
from typing import NamedTuple

from gempi_jax import models
from gempi_jax.contracts import Metrics
from gempi_jax.methods import Critic, Features, Method, with_critic, with_entropy
from gempi_jax.numerics import advantages
from gempi_jax.numerics.backups import Backup, n_step_backup, retrace
from gempi_jax.numerics.checks import require
from gempi_jax.rl import Discrete, Environment, HostEnvironment, make, normalized
from gempi_jax.rl.registry import ON_THE_HOST
from gempi_jax.runners import offpolicy
from gempi_jax.runners import virel as virel_runner
from gempi_jax.runners.actionvalues import QCritic
from gempi_jax.runners.build import blame, lookup, make_method
from gempi_jax.runners.control import initial_state, iterate
from gempi_jax.runners.controlnetworks import CONTROL_METHODS, VIREL, build_agent
from gempi_jax.runners.controlparts import Control, check_control
from gempi_jax.runners.offpolicyparts import Replayed, check_replayed
from gempi_jax.runners.optimizers import DECAYS, action_value_optimizer, control_optimizers
from gempi_jax.runners.settings import ActionValueSettings, ControlSettings, CriticSettings
from gempi_jax.training.learn import Passes
from gempi_jax.training.schedules import Schedule
from gempi_jax.training.state import TrainState
from gempi_jax.types import Array

ESTIMATORS: dict[str, Callable[[CriticSettings], advantages.Estimator]] = {
    "gae": lambda s: advantages.gae(s.lam),
    "unroll_returns": lambda s: advantages.unroll_returns(),
    "n_step_returns": lambda s: advantages.n_step_returns(s.n),
    "vtrace": lambda s: advantages.vtrace(s.lam),
}
BACKUPS: dict[str, Callable[[ActionValueSettings], Backup]] = {
    "n_step": lambda s: n_step_backup(s.n),
    "retrace": lambda s: retrace(s.lam),
}
OF_THE_CRITIC = ("lam", "gamma", "features", "value_coefficient", "value_clip")
"""Arguments of methods that bring a critic of their own, by which it is set for language."""


OF_V = tuple(f"critic.{name}" for name in ("estimator", "lam", "n", "features", "coefficient", "value_clip", "popart"))
UNREAD = {
    "V": ("action_values",),
    "Q": OF_V,
    VIREL: (
        *(name for name in OF_V if name != "critic.features"),
        "action_values",
        "replay",
        "entropy_coefficient",
        "entropy_schedule",
    ),
}
"""Settings that mean nothing to a run whose critic is V, Q on a replay, or VIREL's."""


def check_read(settings: ControlSettings, critic: str) -> None:
    """Raises ValueError where a setting that nothing would read is not at its default.

    Args:
      settings: of the run.
      critic: a name of ``UNREAD``.
    """
    defaults = ControlSettings(settings.environment)
    where = dict.fromkeys(UNREAD[critic], f"method is {settings.method!r}")
    where |= {} if settings.replay.capacity else {"replay.batch": "replay.capacity is 0"}
    where |= {} if settings.entropy_coefficient else {"entropy_schedule": "entropy_coefficient is 0"}
    for name, reason in where.items():
        read = operator.attrgetter(name)
        if read(settings) != read(defaults):
            raise ValueError(
                f"config.{name} = {read(settings)!r}: nothing reads it where {reason}; leave it at {read(defaults)!r}"
            )


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
    method = build_method(settings)
    if method.needs.by_group and not settings.replay.capacity:
        raise ValueError(
            f"config.method = {settings.method!r}: it compares the actions of a state, as it can by Q on a replay: "
            "give replay.capacity"
        )
    check_read(settings, VIREL if settings.method == VIREL else "Q" if method.needs.by_group else "V")
    environment = build_environment(settings)
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
        entropy=build_entropy(settings),
    )
    with blame("config"):
        if settings.method == VIREL:
            require(
                not isinstance(environment, HostEnvironment),
                f"method is 'virel', and {environment.name} steps on the host; choose an environment written in JAX.",
            )
            virel_runner.check_virel(control)
            functions = virel_runner.initial_virel_state, virel_runner.iterate_virel
            return Made(control, *(functools.partial(function, control) for function in functions))
        if settings.replay.capacity:
            replayed = _replayed(settings, control)
            check_replayed(replayed)
            functions = offpolicy.initial_state, offpolicy.iterate_replayed
            return Made(control, *(functools.partial(function, replayed) for function in functions))
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
    with blame("config.action_values"):
        backup = lookup(BACKUPS, asked.backup, "config.action_values.backup")(asked)
    critic = QCritic(
        network,
        action_value_optimizer(settings),
        settings.critic.gamma,
        backup,
        asked.num_samples or None,
        control.passes,
        asked.period,
    )
    return Replayed(control, replay.capacity, replay.batch, critic)


def build_environment(settings: ControlSettings) -> Environment | HostEnvironment:
    """Where the policy acts; of those on the host as many instances as ``num_environments``.

    Raises:
      ValueError, ImportError: see :func:`build_run`.
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
      ValueError: see :func:`build_run`; also where ``method_args`` sets the critic, which is set elsewhere.
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
    with blame("config.method"):
        if takes:
            method = method._replace(needs=method.needs._replace(critic=made))
        elif not needs.by_group:
            method = with_critic(method, made, coefficient=critic.coefficient, value_clip=critic.value_clip or None)
    with blame("config.entropy_coefficient"):
        # One that falls is added iteration by iteration.
        return with_entropy(method, settings.entropy_coefficient if settings.entropy_schedule == "constant" else 0.0)


def build_entropy(settings: ControlSettings) -> Callable[[Array], Array] | None:
    """The bonus on entropy by iteration where it falls; ``None`` where it is one number, which the method has.

    Raises:
      ValueError: an unknown schedule, or a coefficient below 0.
    """
    decay = lookup(DECAYS, settings.entropy_schedule, "config.entropy_schedule")(0.0)
    if settings.entropy_schedule == "constant":
        return None
    coefficient = settings.entropy_coefficient
    require(0 <= coefficient < math.inf, f"config.entropy_coefficient = {coefficient}: give a finite number from 0 on.")
    return Schedule(coefficient, decay=decay).build(settings.num_iterations)


__all__ = ["CONTROL_METHODS", "OF_THE_CRITIC", "Made", "build_run"]
