"""MiniGrid-Memory (xminigrid): an object is seen in a room, and its like has to be found at the end of a corridor.

Reference: V-MPO with GTrXL (Song et al. 2019; Parisotto et al. 2019), method document appendix B.
Command: python -m experiments.train --config=configs/rl/minigrid_memory.py:vmpo --workdir=runs/minigrid
  --config.num_seeds=1 [--config.environment.name=MiniGrid-MemoryS8]
Expected: RESULTS.md.

What differs from the defaults, and why: the core is GTrXL and reads its last action; a bonus keeps entropy up, without
which the walk to the first reward is never found.  Pick up, put down and toggle do nothing here and are left out.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """``arg``: the method (default vmpo), and ``quick``."""
    method, quick = common.parse_control(arg)
    return common.control(
        "MiniGrid-MemoryS9",
        method,
        quick,
        environment={"options": {"num_actions": 3}},
        core="gtrxl",
        network={"torso_widths": (64,), "width": 64, "memory_length": 64, "previous": True},
        entropy_coefficient=0.01,
        env_steps=5_000_000,
        num_environments=32,
    ).lock()
