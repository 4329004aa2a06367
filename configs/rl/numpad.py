"""Numpad (Parisotto et al. 2019, section 4.4): pads are to be stepped on in a hidden order, again and again.

Reference: V-MPO with GTrXL (Song et al. 2019; Parisotto et al. 2019), method document appendix B.
Command: python -m experiments.train --config=configs/rl/numpad.py:vmpo --workdir=runs/numpad
  --config.num_seeds=3 [--config.core=lstm] [--config.environment.options.size=3]
Expected: RESULTS.md.

What differs from the defaults, and why: the core is GTrXL and reads its last action and reward, without which it cannot
know whether a pad was right.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """``arg``: the method (default vmpo), and ``quick``."""
    method, quick = common.parse_control(arg)
    return common.control(
        "Numpad",
        method,
        quick,
        arguments={"vmpo": {"epsilon_eta": 0.5}},
        environment={"options": {"size": 2}},
        core="gtrxl",
        network={"torso_widths": (32,), "width": 32, "memory_length": 64, "previous": True},
        entropy_coefficient=0.005,
        env_steps=1_000_000,
        num_environments=32,
    ).lock()
