"""MemoryChain (bsuite): a bit is shown once and asked for 20 steps later; only who remembers it earns 1 and not 0.

Reference: V-MPO with GTrXL (Song et al. 2019; Parisotto et al. 2019), method document appendix B.
Command: python -m experiments.train --config=configs/rl/memory_chain.py:vmpo --workdir=runs/memory_chain
  --config.num_seeds=5 [--config.core=lstm] [--config.environment.options.memory_length=64]
Expected: 1.0 in all of five seeds, learnt within 50,000 steps (RESULTS.md).

What differs from the defaults, and why: the core is GTrXL.  Two epochs, not four, with a sharper E-step and a smaller
trust region learn as fast at half of the cost.  The last action is no input: a policy without a memory could carry what
it saw on in what it does.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """``arg``: the method (default vmpo), and ``quick``."""
    method, quick = common.parse_control(arg)
    return common.control(
        "MemoryChain-bsuite",
        method,
        quick,
        arguments={"vmpo": {"epsilon_eta": 0.5, "epsilon_alpha": 0.002}},
        environment={"options": {"memory_length": 20}},
        core="gtrxl",
        network={"torso_widths": (32,), "width": 32, "memory_length": 32},
        env_steps=250_000,
        num_epochs=2,
    ).lock()
