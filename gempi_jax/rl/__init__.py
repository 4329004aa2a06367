"""The control world: environments, and what is experienced in them."""

from gempi_jax.rl.env import Continuous, Discrete, Environment, TimeStep, episodic, require_actions
from gempi_jax.rl.failures import EnvironmentFailed, require_finite
from gempi_jax.rl.host_env import HostEnvironment
from gempi_jax.rl.normalized import normalized
from gempi_jax.rl.registry import make

__all__ = [
    "Continuous",
    "Discrete",
    "Environment",
    "EnvironmentFailed",
    "HostEnvironment",
    "TimeStep",
    "episodic",
    "make",
    "normalized",
    "require_actions",
    "require_finite",
]
