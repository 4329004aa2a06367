"""Pendulum-v1: a torque swings a pole up and keeps it there; continuous actions, -150 or so at best.

Reference: V-MPO for Gaussian policies, Song et al. 2019, appendix C: mean and covariance have budgets of their own.
Command: python -m experiments.train --config=configs/rl/pendulum.py:vmpo --workdir=runs/pendulum --config.num_seeds=3
Expected: RESULTS.md.

What differs from the defaults, and why: the trust region is a Gaussian's, by mean and covariance; MPO learns Q from a
replay, with few steps between its updates.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """``arg``: the method (default vmpo), and ``quick``."""
    method, quick = common.parse_control(arg)
    sizes = {"num_environments": 16, "unroll_length": 200, "updates_per_epoch": 8, "env_steps": 500_000}
    if method == "mpo":
        sizes = {
            **{"num_environments": 8, "unroll_length": 8, "updates_per_epoch": 8, "num_epochs": 1, "log_every": 50},
            **{"replay": {"capacity": 800, "batch": 256}, "env_steps": 40_000},
        }
    gaussian = {"trust_region": "gaussian_kl"}
    return common.control(
        "Pendulum-v1",
        method,
        quick,
        arguments={
            "vmpo": gaussian | {"epsilon_eta": 0.3, "epsilon_alpha": (0.05, 0.002)},
            "mpo": gaussian | {"epsilon_alpha": (0.05, 0.005), "epsilon_bounds": 1e-3},
        },
        network={"torso_widths": (64, 64), "activation": "tanh", "width": 0},
        critic={"features": "own", "gamma": 0.98 if method == "mpo" else 0.95, "popart": 0.1},
        optimizer={"learning_rate": 1e-3 if method == "mpo" else 2e-3},
        **sizes,
    ).lock()
