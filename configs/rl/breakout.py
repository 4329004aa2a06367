"""MinAtar Breakout: 10 x 10 cells, a paddle, a ball, bricks (Young and Tian 2019).

Reference: V-MPO, Song et al. 2019; any other method of the table that serves control.
Command: python -m experiments.train --config=configs/rl/breakout.py:vmpo --workdir=runs/breakout --config.num_seeds=3
Expected: RESULTS.md.

What differs from the defaults, and why: two networks read the flattened board; many environments, long unrolls.
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
        network={"torso_widths": (64, 64), "activation": "relu", "width": 0},
        critic={"features": "own"},
        env_steps=2_000_000,
        num_environments=64,
        unroll_length=128,
    ).lock()
