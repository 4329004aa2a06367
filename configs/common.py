"""What every config shares: one ``arg`` string, read strictly, and the ``quick`` scale."""

from ml_collections import ConfigDict

METHODS = {
    "sft": {},
    "awr": {"beta": 0.2},
    "vmpo": {"epsilon_eta": 0.1, "epsilon_alpha": 0.003, "top_k_fraction": 0.25},
    "dar": {"alpha": 0.02, "beta": 0.18},
    "rl_em": {"beta": 0.2},
    "at_dar": {"epsilon_ref": 4.0, "epsilon_old": 0.3},
}
"""Each method with its settings; ``configs.methods`` of a run may be overridden by --config.rl.method_args.NAME."""


def parse_arg(arg: str | None, *, method: str) -> tuple[str, bool]:
    """Reads ``"METHOD"``, ``"METHOD,quick"`` or ``"quick"``.

    Returns:
      The method's name, and whether the run is to take seconds.

    Raises:
      ValueError: for anything else, with what is valid.
    """
    parts = [part.strip() for part in (arg or "").split(",") if part.strip()]
    quick = "quick" in parts
    names = [part for part in parts if part != "quick"]
    unknown = [name for name in names if name not in METHODS]
    if unknown or len(names) > 1:
        raise ValueError(
            f"config arg {arg!r}: expected one method of {', '.join(METHODS)}, and optionally 'quick', "
            "e.g. arithmetic.py:vmpo,quick"
        )
    return (names[0] if names else method), quick


def base() -> ConfigDict:
    """Sections that every run has, with their defaults."""
    return ConfigDict(
        {
            "seed": 0,
            "model": {},
            "data": {},
            "rewards": {},
            "phases": (),
            # Devices along each axis of the mesh.
            "mesh": {"data": 1, "fsdp": 1, "tensor": 1},
            "eval": {"every": 10, "batch_prompts": 128, "num_samples": 16},
            "checkpoint": {"every": 10, "keep": 2},
            # The run stops after so many updates in a row whose loss, gradient or reward is not finite.
            "max_skips_in_a_row": 5,
            "preemption_grace_seconds": 1.0,
            # One more copy of the state, so that SIGTERM is answered at any moment, the M-step included.
            "keep_boundary": True,
        }
    )
