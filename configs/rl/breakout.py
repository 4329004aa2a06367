"""MinAtar Breakout: 10 x 10 cells, a paddle, a ball, bricks (Young and Tian 2019).

Reference: V-MPO, Song et al. 2019; any other method of the table that serves control.
Command: python -m experiments.train --config=configs/rl/breakout.py:vmpo --workdir=runs/breakout --config.num_seeds=3
Expected: RESULTS.md.

What differs from the defaults, and why: two networks read the flattened board.  The duals are the paper's, learnt
slowly from large beginnings, and nothing searches for a step's length: weights stay nearly even among the better half,
the policy stays open, and play improves to the end.  With a solved temperature and a larger budget the policy is
certain of a poor game by 300,000 steps.
"""

from ml_collections import ConfigDict

from configs import common

PAPER = {"epsilon_eta": 0.02, "epsilon_alpha": 0.005, "temperature": "dual_1", "enforced": "lagrangian_5"}
"""Budgets, the temperature's and the multiplier's beginnings."""


def get_config(arg: str | None = None) -> ConfigDict:
    """``arg``: the method (default vmpo), and ``quick``."""
    method, quick = common.parse_control(arg)
    return common.control(
        "Breakout-MinAtar",
        method,
        quick,
        arguments={"vmpo": PAPER},
        network={"torso_widths": (64, 64), "activation": "relu", "width": 0},
        critic={"features": "own"},
        duals={
            "optimizer": "adam",
            "num_temperature_steps": 32,  # as many as an iteration has updates
            "temperature_learning_rate": 1e-3,
            "multiplier_learning_rate": 1e-3,
        },
        env_steps=2_000_000,
        num_environments=64,
        unroll_length=128,
        updates_per_epoch=8,
    ).lock()
