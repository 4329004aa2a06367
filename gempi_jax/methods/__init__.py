"""Named algorithms: each a few lines over the tuple."""

from gempi_jax.methods.awr import awr
from gempi_jax.methods.base import Critic, Features, Method, Needs, TrustRegion
from gempi_jax.methods.beta_dpo import Reading, beta_dpo
from gempi_jax.methods.bounds import with_bounds
from gempi_jax.methods.critic import with_critic, with_entropy, with_kl_price
from gempi_jax.methods.dar import at_dar, dar, dar_tr, top_k_dar
from gempi_jax.methods.gempi import Fit, from_spec
from gempi_jax.methods.group import Contrast, exo, info_nca, tpo
from gempi_jax.methods.policy_gradient import dr_grpo, grpo, reinforce, rloo
from gempi_jax.methods.ppo import ppo, ppo_sequence
from gempi_jax.methods.preference import cdpo, dpo, ipo, rdpo
from gempi_jax.methods.regression import a_star_po, gvpo, oapl, opmd, qrpo, rebel, tba
from gempi_jax.methods.rl_em import rl_em
from gempi_jax.methods.sft import map_sft, sft
from gempi_jax.methods.spelled import gempi
from gempi_jax.methods.table import METHODS
from gempi_jax.methods.vmpo import vmpo
from gempi_jax.methods.weighted import max_rl, mpo, pmpo, raft, rest_em, topr, var, wd1

__all__ = [
    "METHODS",
    "Contrast",
    "Critic",
    "Features",
    "Fit",
    "Method",
    "Needs",
    "Reading",
    "TrustRegion",
    "a_star_po",
    "at_dar",
    "awr",
    "beta_dpo",
    "cdpo",
    "dar",
    "dar_tr",
    "dpo",
    "dr_grpo",
    "exo",
    "from_spec",
    "gempi",
    "grpo",
    "gvpo",
    "info_nca",
    "ipo",
    "map_sft",
    "max_rl",
    "mpo",
    "oapl",
    "opmd",
    "pmpo",
    "ppo",
    "ppo_sequence",
    "qrpo",
    "raft",
    "rdpo",
    "rebel",
    "reinforce",
    "rest_em",
    "rl_em",
    "rloo",
    "sft",
    "tba",
    "top_k_dar",
    "topr",
    "tpo",
    "var",
    "vmpo",
    "wd1",
    "with_bounds",
    "with_critic",
    "with_entropy",
    "with_kl_price",
]
