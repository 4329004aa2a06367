"""Functions compiled apart from running, and the time that stages take."""

import time
from collections.abc import Callable

import jax


class Compiled:
    """A function compiled at its first call, apart from running it: compiling never holds donated buffers.

    Args:
      function: plain.
      donate: positions of arguments whose buffers it may reuse.
    """

    def __init__(self, function: Callable, donate: tuple[int, ...] = ()):
        self._jitted = jax.jit(function, donate_argnums=donate)
        self._compiled = {}

    def prepare(self, *args) -> Callable:
        """The executable for arguments of these shapes."""
        leaves, treedef = jax.tree.flatten(args)
        signature = (tuple(jax.typeof(leaf) for leaf in leaves), treedef)
        if signature not in self._compiled:
            self._compiled[signature] = self._jitted.lower(*args).compile()
        return self._compiled[signature]

    def __call__(self, *args):
        return self.prepare(*args)(*args)


class Clock:
    """Wall seconds between laps."""

    def __init__(self):
        self.start = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Names the time since the last lap."""
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now

    def total(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start
