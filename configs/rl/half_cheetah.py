"""HalfCheetah-v4 (MuJoCo, stepped by envpool on the host): six torques make a cheetah run.

Reference: V-MPO for Gaussian policies, Song et al. 2019, appendix C; its ablation leaves the KL of the M-step out.
Command: python -m experiments.train --config=configs/rl/half_cheetah.py:vmpo --workdir=runs/half_cheetah
Expected: 1,500 to 3,200 by seed (RESULTS.md).  The ablation: python -m experiments.benchmarks.half_cheetah --without

What differs from the defaults, and why: environments on the host, whose observations are normalised; a Gaussian's trust
region by mean and covariance, with the paper's multipliers; V learns normalised returns.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """``arg``: the method (default vmpo), and ``quick``."""
    method, quick = common.parse_control(arg)
    gaussian = {"trust_region": "gaussian_kl", "epsilon_alpha": (0.02, 5e-4), "enforced": "lagrangian_1"}
    return common.control(
        "envpool/HalfCheetah-v4",
        method,
        quick,
        arguments={"vmpo": gaussian},
        environment={"normalize": True, "options": {"num_threads": 1}},
        network={"torso_widths": (64, 64), "activation": "tanh", "width": 0, "initial_scale": 0.6},
        critic={"features": "own", "popart": 0.03},
        duals={"optimizer": "adam", "multiplier_learning_rate": 0.01},
        env_steps=1_000_000,
        num_epochs=10,
        log_every=20,
    ).lock()
