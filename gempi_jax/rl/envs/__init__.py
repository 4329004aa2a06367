"""Environments of ours, in JAX: tasks of memory, each one file of rules, features and a picture."""

from gempi_jax.rl.envs.numpad import numpad
from gempi_jax.rl.envs.proof_of_memory import proof_of_memory
from gempi_jax.rl.envs.t_maze import t_maze

__all__ = ["numpad", "proof_of_memory", "t_maze"]
