"""What a method asks of the model that it trains: no dropout under a ratio, parameters of its own under a prior."""

from gempi_jax.methods.base import Method
from gempi_jax.runners.settings import PhaseSettings


def check_prior(name: str, phase: PhaseSettings, method: Method, adapts: bool) -> None:
    """Refuses a prior around where adapters started: their reference is the base, without any.

    Args:
      name: of the phase's section, for errors.
      phase: its settings.
      method: made of them.
      adapts: whether adapters train.

    Raises:
      ValueError: with the place in the config, the value and the fix.
    """
    if adapts and method.needs.prior:
        raise ValueError(
            f"config.{name}.method = {phase.method!r}: its Gaussian prior is around parameters at their start, and "
            "adapters start from none; set method_args.precision to 0 and method_args.kl_price above 0, or decay the "
            "adapters, by optimizer.weight_decay of adamw"
        )


def check_dropout(name: str, phase: PhaseSettings, method: Method, rate: float) -> None:
    """Refuses ratios of a policy that drops to one that does not, unless they are asked for.

    Args:
      name: of the phase's section, for errors.
      phase: its settings.
      method: made of them.
      rate: the largest dropout rate of the run's model.

    Raises:
      ValueError: with the place in the config, the value and the fix.
    """
    if rate and method.needs.ratio and not phase.ratio_dropout:
        raise ValueError(
            f"config.model.dropout (or lora.dropout) = {rate}: method {phase.method!r} of config.{name} takes ratios "
            "of a pass that drops to one that does not, noise from the first update on; set it to 0, or "
            f"config.{name}.ratio_dropout to True"
        )
