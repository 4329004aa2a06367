"""CartPole-v1: a pole is kept upright for 500 steps; the first thing that a new method should learn.

Reference: V-MPO, Song et al. 2019; PPO, Schulman et al. 2017; any other method of the table that serves control.
Command: python -m experiments.train --config=configs/rl/cartpole.py:vmpo --workdir=runs/cartpole --config.num_seeds=10
Expected: 500 in all of ten seeds, with vmpo and with ppo (RESULTS.md).

What differs from the defaults, and why: policy and critic are two networks of two layers; V-MPO takes many
environments and few passes, PPO fewer environments and more passes; MPO and AWR learn from replays.  VIREL's critic is
the document's; at a smaller scale its policy may become greedy on the first short episodes, whose errors vanish.
"""

from ml_collections import ConfigDict

from configs import common

SIZES = {
    "vmpo": {"num_environments": 64, "unroll_length": 32, "updates_per_epoch": 8, "num_epochs": 2},
    "ppo": {"num_environments": 16, "unroll_length": 64, "updates_per_epoch": 4, "num_epochs": 4},
    # Without a ratio or a trust region nothing knows that a batch grows old: one update each.
    "reinforce": {"num_environments": 16, "unroll_length": 32, "updates_per_epoch": 1, "num_epochs": 1},
    # On replays: of states with Q of both actions, and of unrolls.
    "mpo": {"num_environments": 8, "unroll_length": 8, "updates_per_epoch": 8, "num_epochs": 1, "log_every": 50},
    "awr": {"num_environments": 16, "unroll_length": 32, "updates_per_epoch": 16, "num_epochs": 1},
    "virel": {"num_environments": 64, "unroll_length": 32, "updates_per_epoch": 8, "num_epochs": 4},
}
MORE = {
    "reinforce": {"optimizer": {"learning_rate": 3e-3}},
    "mpo": {"replay": {"capacity": 800, "batch": 256}, "action_values": {"num_samples": 0}},
    "awr": {"replay": {"capacity": 20, "batch": 128}},
    "virel": {"critic": {"features": "own", "gamma": 0.98}, "env_steps": 500_000},
}


def get_config(arg: str | None = None) -> ConfigDict:
    """``arg``: the method (default vmpo), and ``quick``."""
    method, quick = common.parse_control(arg)
    sizes = SIZES.get(method, SIZES["vmpo"]) | MORE.get(method, {})
    return common.control(
        "CartPole-v1",
        method,
        quick,
        arguments={"vmpo": {"epsilon_eta": 0.02}, "awr": {"beta": 1.0}, "virel": {"scale": 0.5, "critic": "elbo"}},
        network={"torso_widths": (64, 64), "activation": "tanh", "width": 0},
        **{"critic": {"features": "own"}, "env_steps": 250_000} | sizes,
    ).lock()
