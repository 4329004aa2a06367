"""The environments that the tests go through, each skipped by name where the package that has it is missing."""

import pytest

from gempi_jax.rl import Environment, make

CASES = {
    "Numpad": (None, {"size": 3}),
    "ProofofMemory": (None, {}),
    "TMaze": (None, {"length": 2}),
    "CartPole-v1": ("gymnax", {}),
    "Pendulum-v1": ("gymnax", {}),
    "Breakout-MinAtar": ("gymnax", {}),
    "MemoryChain-bsuite": ("gymnax", {"memory_length": 4}),
    "MiniGrid-MemoryS9": ("xminigrid", {"num_actions": 3}),
}


def made(name: str, **options) -> Environment:
    """The environment of a case."""
    package, given = CASES[name]
    if package:
        pytest.importorskip(package)
    return make(name, **given | options)
