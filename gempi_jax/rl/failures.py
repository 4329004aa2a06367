"""Environments that fail: what is raised, and what is looked at before anything is learnt from it."""

import numpy as np


class EnvironmentFailed(RuntimeError):
    """An environment that died or gave what is no number.

    Attributes:
      index: which of the parallel instances, ``None`` where it is not known.
      step: of that instance, counted from the beginning of the run.
    """

    def __init__(self, message: str, index: int | None, step: int):
        super().__init__(message)
        self.index = index
        self.step = step

    def __reduce__(self):
        return EnvironmentFailed, (*self.args, self.index, self.step)


def require_finite(name: str, first_step: int, **arrays: np.ndarray) -> None:
    """Raises EnvironmentFailed for the first step at which an array has a NaN or an infinity.

    Args:
      name: of the environment.
      first_step: the number of the arrays' first step.
      arrays: by what they hold (``reward=``, ``observation=``), [T, B, ...] over steps and instances.
    """
    found = []
    for what, values in arrays.items():
        values = np.asarray(values)
        if np.isfinite(values).all():
            continue
        flat = values.reshape(*values.shape[:2], -1)
        t, index, place = np.argwhere(~np.isfinite(flat))[0]
        found.append((int(t), int(index), what, flat[t, index, place]))
    if found:
        t, index, what, value = min(found, key=lambda each: each[:2])
        raise EnvironmentFailed(
            f"{name}: instance {index} gave the {what} {value} at step {first_step + t}; nothing was learnt from it. "
            "Mend the environment or bound its actions; the run continues from its last checkpoint.",
            index,
            first_step + t,
        )
