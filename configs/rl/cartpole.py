"""CartPole-v1: a pole is kept upright for 500 steps; the first thing that a new method should learn.

Reference: V-MPO, Song et al. 2019; PPO, Schulman et al. 2017; any other method of the table that serves control.
Command: python -m experiments.train --config=configs/rl/cartpole.py:vmpo --workdir=runs/cartpole --config.num_seeds=10
Expected: 500 in all of ten seeds, with vmpo and with ppo (RESULTS.md).

What differs from the defaults, and why: policy and critic are two networks of two layers; V-MPO takes many
environments and few passes, PPO fewer environments and more passes, each as it learns best here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """``arg``: the method (default vmpo), and ``quick``."""
    method, quick = common.parse_arg(arg, method="vmpo")
    sizes = {"num_environments": 64, "unroll_length": 32, "updates_per_epoch": 8, "num_epochs": 2}
    if method == "ppo":
        sizes = {"num_environments": 16, "unroll_length": 64, "updates_per_epoch": 4, "num_epochs": 4}
    return common.control(
        "CartPole-v1",
        method,
        quick,
        arguments={"vmpo": {"epsilon_eta": 0.02}},
        network={"torso_widths": (64, 64), "activation": "tanh", "width": 0},
        critic={"features": "own"},
        env_steps=250_000,
        **sizes,
    ).lock()
