"""Environments by name: ours, those of installed packages, and a user's own."""

import inspect
from collections.abc import Callable
from typing import Any

from gempi_jax import user_code
from gempi_jax.rl import envpool_env, envs, gymnasium_env, gymnax_env, optional, xminigrid_env
from gempi_jax.rl.env import Environment
from gempi_jax.rl.host_env import HostEnvironment

OURS: dict[str, Callable[..., Environment]] = {
    "Numpad": envs.numpad,
    "ProofofMemory": envs.proof_of_memory,
    "TMaze": envs.t_maze,
}

_PACKAGES = {
    "gymnax": (gymnax_env.names, gymnax_env.gymnax_environment),
    "xminigrid": (xminigrid_env.names, xminigrid_env.xminigrid_environment),
}

ON_THE_HOST = {
    "envpool": envpool_env.envpool_environment,
    "gymnasium": gymnasium_env.gymnasium_environment,
}
"""Packages whose environments step on the host, by what stands before the slash of a name."""


def make(name: str, **options: Any) -> Environment | HostEnvironment:
    """The environment that a name stands for.

    Args:
      name: one of ours (:data:`OURS`); one of gymnax' or xminigrid's as they name it, ``"CartPole-v1"``; instances on
        the host, ``"gymnasium/CartPole-v1"`` or ``"envpool/HalfCheetah-v4"``; or a user's own,
        ``"package.module:factory"`` or ``"folder/file.py:factory"``, a function that returns an environment.
      options: of that environment.

    Raises:
      ValueError: nothing has that name, or no such option; it names the nearest that there are.
      ImportError: the package that a name needs is not installed.
    """
    package, slash, rest = name.partition("/")
    if slash and package in ON_THE_HOST:
        return _call(name, ON_THE_HOST[package], (rest,), options)
    if ":" in name:
        return _users_own(name, options)
    if name in OURS:
        return _call(name, OURS[name], (), options)
    known, missing = set(OURS), []
    for package, (names, factory) in _PACKAGES.items():
        try:
            found = names()
        except ImportError:
            missing.append(package)
            continue
        if name in found:
            return _call(name, factory, (name,), options)
        known.update(found)
    hint = f" (not installed, may have it: {', '.join(missing)}: pip install 'gempi_jax[environments]')"
    raise ValueError(f"make: there is no environment {name!r}{optional.nearest(name, known)}{hint if missing else ''}.")


def _call(name: str, factory: Callable[..., Any], positional: tuple[str, ...], options: dict[str, Any]):
    """What the factory makes, its options checked, unless it takes any and checks them itself."""
    parameters = list(inspect.signature(factory).parameters.values())[len(positional) :]
    needed = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY and each.default is each.empty]
    for option in needed:
        if option not in options:
            raise ValueError(f"{name}: give its option {option!r}.")
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        optional.check_options(name, options, [parameter.name for parameter in parameters])
    return factory(*positional, **options)


def _users_own(path: str, options: dict[str, Any]) -> Environment | HostEnvironment:
    factory = user_code.load_function(path, "make", ValueError)
    try:
        made = factory(**options)
    except BaseException as error:
        user_code.let_through(error)
        where = user_code.describe(error, user_code.source_of(factory))
        raise ValueError(
            f"make: {path} with options {options} raised {where}; correct the function or the options."
        ) from error
    if not isinstance(made, Environment | HostEnvironment):
        raise ValueError(
            f"make: {path} returned a {type(made).__name__}; return an Environment, as gempi_jax.rl.episodic makes one."
        )
    return made
