"""MinAtar Breakout: 10 x 10 cells, a paddle, a ball, bricks (Young and Tian 2019).

Reference: V-MPO, Song et al. 2019; any other method of the table that serves control.
Command: python -m experiments.train --config=configs/rl/breakout.py:vmpo --workdir=runs/breakout --config.num_seeds=3
Expected: RESULTS.md.

What differs from the defaults, and why: two networks read the flattened board.  Many environments, long unrolls, a
short horizon of the advantages and a bonus on entropy: with less of them the policy is certain of a poor game by
300,000 steps.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """``arg``: the method (default vmpo), and ``quick``."""
    method, quick = common.parse_control(arg)
    return common.control(
        "Breakout-MinAtar",
        method,
        quick,
        arguments={"vmpo": {"epsilon_eta": 0.3, "epsilon_alpha": 0.01}},
        network={"torso_widths": (128, 64), "activation": "relu", "width": 0},
        critic={"features": "own", "lam": 0.8},
        optimizer={"learning_rate": 2e-3},
        entropy_coefficient=0.05,
        env_steps=2_000_000,
        num_environments=64,
        unroll_length=128,
        updates_per_epoch=16,
        num_epochs=2,
    ).lock()
