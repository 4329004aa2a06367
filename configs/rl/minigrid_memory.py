"""MiniGrid-Memory (xminigrid): an object is seen in a room, and its like has to be found at the end of a corridor.

Reference: V-MPO with GTrXL (Song et al. 2019; Parisotto et al. 2019), method document appendix B.
Command: python -m experiments.train --config=configs/rl/minigrid_memory.py:vmpo --workdir=runs/minigrid
  --config.num_seeds=5 [--config.environment.name=MiniGrid-MemoryS8]
Expected: RESULTS.md.

What differs from the defaults, and why: the agent sees 7 x 7 cells, as MiniGrid has it; of xminigrid's own 3 x 3 the
objects at the corridor's end are out of sight until the episode is over.  The core is GTrXL and reads its last action.
The paper's duals, learnt slowly, and a bonus keep entropy up until memory pays.  Pick up, put down and toggle do
nothing here and are left out.
"""

from ml_collections import ConfigDict

from configs import common

PAPER = {"epsilon_eta": 0.02, "epsilon_alpha": 0.005, "temperature": "dual_1", "enforced": "lagrangian_5"}
"""Budgets, the temperature's and the multiplier's beginnings."""


def get_config(arg: str | None = None) -> ConfigDict:
    """``arg``: the method (default vmpo), and ``quick``."""
    method, quick = common.parse_control(arg)
    return common.control(
        "MiniGrid-MemoryS9",
        method,
        quick,
        arguments={"vmpo": PAPER},
        environment={"options": {"num_actions": 3, "view_size": 7}},
        core="gtrxl",
        network={"torso_widths": (64,), "width": 64, "memory_length": 64, "previous": True},
        critic={"gamma": 0.995},
        duals={
            "optimizer": "adam",
            "num_temperature_steps": 16,  # as many as an iteration has updates
            "temperature_learning_rate": 1e-3,
            "multiplier_learning_rate": 1e-3,
        },
        entropy_coefficient=0.01,
        env_steps=2_000_000,
        num_environments=32,
    ).lock()
