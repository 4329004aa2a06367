"""A walked T-maze: a sign at the start says which arm at the end of 64 steps is right; 1 at best, guessing earns 0.

Reference: Bakker 2001; the cost of a step that does not advance as in Ni et al. 2023.
Command: python -m experiments.train --config=configs/rl/t_maze.py:vmpo --workdir=runs/t_maze
  --config.num_seeds=5 [--config.core=lstm] [--config.environment.options.length=32]
Expected: RESULTS.md.

What differs from the defaults, and why: the core is GTrXL with a memory and an unroll longer than the corridor.  A
small trust region, a bonus on entropy and weights on all steps keep the choice of an arm open until the sign is
attended to; with weights on the better half alone one to four seeds of five settle for an arm first, and stay at
chance.  With the bonus a sampled policy errs now and then to the end, and the greedy one hardly.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """``arg``: the method (default vmpo), and ``quick``."""
    method, quick = common.parse_control(arg)
    return common.control(
        "TMaze",
        method,
        quick,
        arguments={"vmpo": {"epsilon_eta": 0.4, "epsilon_alpha": 0.002, "top_k_fraction": 1.0}},
        environment={"options": {"length": 64}},
        core="gtrxl",
        network={"torso_widths": (32,), "width": 32, "memory_length": 128},
        entropy_coefficient=0.015,
        env_steps=250_000,
        unroll_length=72,
    ).lock()
