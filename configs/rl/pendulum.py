"""Pendulum-v1: a torque swings a pole up and keeps it there; continuous actions, -150 or so at best.

Reference: V-MPO for Gaussian policies, Song et al. 2019, appendix C: mean and covariance have budgets of their own.
Command: python -m experiments.train --config=configs/rl/pendulum.py:vmpo --workdir=runs/pendulum --config.num_seeds=3
Expected: RESULTS.md.

What differs from the defaults, and why: the trust region is a Gaussian's, by mean and covariance.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """``arg``: the method (default vmpo), and ``quick``."""
    method, quick = common.parse_arg(arg, method="vmpo")
    return common.control(
        "Pendulum-v1",
        method,
        quick,
        arguments={"vmpo": {"trust_region": "gaussian_kl", "epsilon_alpha": (0.01, 0.001)}},
        network={"torso_widths": (64, 64), "activation": "tanh", "width": 0},
        critic={"features": "own", "gamma": 0.95},
        env_steps=500_000,
        num_environments=16,
        unroll_length=200,
    ).lock()
