"""Functions compiled apart from running and kept for the next run, and the time that stages take."""

import hashlib
import os
import pathlib
import platform
import time
from collections.abc import Callable

import jax

KEPT_BYTES = 2**31
"""Of compiled programs on disk; the ones that were not used for longest make room."""


def keep_compiled() -> pathlib.Path | None:
    """Lets programs that XLA compiled in earlier runs be read from disk, where no other folder is set for them.

    The second run of arithmetic's quick config takes 13 CPU seconds in place of 38.  The folder is ``gempi_jax`` in the
    user's cache (``XDG_CACHE_HOME``, else ``~/.cache``), with a part of its own for each kind of processor: what is
    compiled for one may not run on another that shares the disk.  ``JAX_COMPILATION_CACHE_DIR`` names another,
    ``JAX_ENABLE_COMPILATION_CACHE=false`` switches it off.

    Returns:
      The folder; ``None`` where it is switched off, set already, or cannot be written.
    """
    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        return None
    folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gempi_jax" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f".{os.getpid()}").touch()
        (folder / f".{os.getpid()}").unlink()
    except (OSError, RuntimeError):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_compilation_cache_max_size", KEPT_BYTES)
    return folder


def _processor() -> str:
    """A name for what the processor can do."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        told = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    except OSError:
        told = [platform.processor()]
    return hashlib.sha256("\n".join([platform.machine(), *told]).encode()).hexdigest()[:16]


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
