"""ProofofMemory (CleanRL's): which end of a line is good shows for three steps; the optimum is 1.2, without memory 0.5.

Reference: V-MPO with GTrXL (Song et al. 2019; Parisotto et al. 2019), method document appendix B.
Command: python -m experiments.train --config=configs/rl/proof_of_memory.py:vmpo --workdir=runs/proof_of_memory
  --config.num_seeds=5 [--config.core=lstm]
Expected: 1.2 with gtrxl, and mlp fails (RESULTS.md).

What differs from the defaults, and why: the core is GTrXL, its memory as long as an episode.  In 10,000 steps, 20
iterations, there is time for large reweightings alone (epsilon_eta, the rate).  The last action is no input: with it a
policy without a memory carries the sign on in what it does.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """``arg``: the method (default vmpo), and ``quick``."""
    method, quick = common.parse_control(arg)
    return common.control(
        "ProofofMemory",
        method,
        quick,
        arguments={"vmpo": {"epsilon_eta": 0.5}},
        core="gtrxl",
        network={"torso_widths": (32,), "width": 32, "memory_length": 16},
        optimizer={"learning_rate": 2e-3},
        entropy_coefficient=0.01,
        env_steps=10_000,
        unroll_length=32,
        log_every=1,
    ).lock()
