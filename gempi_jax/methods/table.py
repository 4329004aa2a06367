"""Every method by name; a new one adds its line here."""

from collections.abc import Callable

from gempi_jax.methods.awr import awr
from gempi_jax.methods.base import Method
from gempi_jax.methods.beta_dpo import beta_dpo
from gempi_jax.methods.dar import at_dar, dar, dar_tr, top_k_dar
from gempi_jax.methods.group import exo, info_nca, tpo
from gempi_jax.methods.policy_gradient import dr_grpo, grpo, reinforce, rloo
from gempi_jax.methods.ppo import ppo, ppo_sequence
from gempi_jax.methods.preference import cdpo, dpo, ipo, rdpo
from gempi_jax.methods.regression import a_star_po, gvpo, oapl, opmd, qrpo, rebel, tba
from gempi_jax.methods.rl_em import rl_em
from gempi_jax.methods.sft import map_sft, sft
from gempi_jax.methods.spelled import gempi
from gempi_jax.methods.vmpo import vmpo
from gempi_jax.methods.weighted import max_rl, mpo, pmpo, raft, rest_em, topr, var, wd1

METHODS: dict[str, Callable[..., Method]] = {
    "sft": sft,
    "map": map_sft,
    "awr": awr,
    "vmpo": vmpo,
    "mpo": mpo,
    "dar": dar,
    "rl_em": rl_em,
    "at_dar": at_dar,
    "dar_tr": dar_tr,
    "top_k_dar": top_k_dar,
    "reinforce": reinforce,
    "rloo": rloo,
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "ppo": ppo,
    "ppo_sequence": ppo_sequence,
    "opmd": opmd,
    "oapl": oapl,
    "a_star_po": a_star_po,
    "gvpo": gvpo,
    "rebel": rebel,
    "qrpo": qrpo,
    "tba": tba,
    "rest_em": rest_em,
    "raft": raft,
    "max_rl": max_rl,
    "var": var,
    "pmpo": pmpo,
    "wd1": wd1,
    "topr": topr,
    "gempi": gempi,
    "dpo": dpo,
    "ipo": ipo,
    "rdpo": rdpo,
    "cdpo": cdpo,
    "beta_dpo": beta_dpo,
    "tpo": tpo,
    "info_nca": info_nca,
    "exo": exo,
}
