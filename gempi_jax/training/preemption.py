"""SIGTERM and SIGINT save the run and end it with exit code 75, also while the main thread sits inside C++.

Python runs signal handlers between two bytecodes of the main thread, so for as long as XLA compiles or a device
computes, none runs. The C part of Python's handling, though, writes the signal's number to a pipe at once; a thread
reads that pipe. It gives the main thread a moment to reach :meth:`Preemption.poll`, and otherwise saves the state of
the latest iteration boundary itself and ends the process.
"""

import logging
import os
import signal
import sys
import threading
import time
from typing import Protocol, runtime_checkable

_logger = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_RETRY_SECONDS = 0.05


@runtime_checkable
class Saver(Protocol):
    """A state of the run and how to write it; :class:`gempi_jax.training.checkpoint.Pending` is one."""

    def alive(self) -> bool:
        """Whether the state can still be read: no buffer was donated."""

    def save(self) -> None:
        """Writes it; does nothing when that was done, and may be called from any thread."""


EXIT_STATUS = 75
"""Of a run that was told to stop and goes on when it is started again: EX_TEMPFAIL of ``sysexits.h``.  Not 0, or
``train && next`` would take half a run for a whole one."""


class Preempted(SystemExit):
    """The run was told to stop and its state is on disk. Unless caught, it ends the process with ``EXIT_STATUS``."""

    def __init__(self):
        super().__init__(EXIT_STATUS)


class Preemption:
    """Watches for SIGTERM and SIGINT inside a ``with`` block, which the main thread must enter.

    One call per iteration is enough: :meth:`hold` at its start. While the held buffers are donated and their successors
    not yet held, nothing can be saved and the signal waits, so compile ahead what takes donated buffers.

    Args:
      grace_seconds: for the main thread to reach a poll point before the watcher acts.
      patience_seconds: from the signal until the process ends in any case: with ``EXIT_STATUS``, the run resuming from
        its latest checkpoint. A cluster commonly kills 30 s after its SIGTERM.
    """

    def __init__(self, *, grace_seconds: float | int = 1.0, patience_seconds: float | int = 20.0):
        self._grace = grace_seconds
        self._patience = patience_seconds
        self._held: Saver | None = None
        self._signalled = threading.Event()
        self._main_acts = threading.Event()
        self._closed = threading.Event()
        self._saving = threading.Lock()

    def hold(self, saver: Saver) -> None:
        """Makes this the state to save, at an iteration boundary, and polls.

        Raises:
          Preempted: a signal came; the state was saved.
        """
        self._held = saver
        self.poll()

    def poll(self) -> None:
        """Acts on a signal if one came and the held state lives.

        Raises:
          Preempted: it was saved.
        """
        if not self._signalled.is_set() or (self._held is not None and not self._held.alive()):
            return
        with self._saving:  # waits for ever when the watcher has it: that ends the process
            self._main_acts.set()
            if self._held is not None:
                self._held.save()
        raise Preempted

    def __enter__(self) -> "Preemption":
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._previous_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        # Any Python function will do: it makes Python install its own C handler, which feeds the pipe.
        self._previous = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
        for number in _SIGNALS:
            signal.siginterrupt(number, False)  # system calls inside C++ libraries go on
        # A forked worker shares the pipe: a pool that terminates its workers would look like a signal to the run.
        os.register_at_fork(
            before=lambda: self._mask(signal.SIG_BLOCK),
            after_in_parent=lambda: self._mask(signal.SIG_UNBLOCK),
            after_in_child=self._forget_in_child,
        )
        self._thread = threading.Thread(target=self._watch, name="preemption", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._restore_handlers()
        self._closed.set()
        self._main_acts.set()
        os.write(self._writer, b"\0")
        self._thread.join()
        os.close(self._reader)
        os.close(self._writer)

    def _restore_handlers(self) -> None:
        signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _mask(self, how: int) -> None:
        if not self._closed.is_set():
            signal.pthread_sigmask(how, _SIGNALS)

    def _forget_in_child(self) -> None:
        if not self._closed.is_set():
            self._restore_handlers()
            self._mask(signal.SIG_UNBLOCK)
            self._closed.set()

    def _watch(self) -> None:
        if not self._wait_for_signal():
            return
        _logger.warning("stopping: saving the run")
        deadline = time.monotonic() + self._patience
        pause = self._grace
        self._signalled.set()
        while not self._main_acts.wait(pause):
            self._save_and_leave()
            if time.monotonic() > deadline:
                break
            pause = _RETRY_SECONDS
        # The main thread saves and unwinds, or has done so.
        if not self._closed.wait(max(deadline - time.monotonic(), 0.0)):
            with self._saving:
                _leave("stopped without unwinding; the run resumes from its latest checkpoint", EXIT_STATUS)

    def _wait_for_signal(self) -> bool:
        while not self._closed.is_set():
            if os.read(self._reader, 1)[0] in _SIGNALS:
                return True
        return False

    def _save_and_leave(self) -> None:
        """Ends the process with its state saved, unless the main thread is about to, or the state was donated."""
        with self._saving:
            if self._main_acts.is_set():
                return
            saver = self._held
            if saver is None:
                _leave("stopped before the first iteration", EXIT_STATUS)
            if not saver.alive():
                return
            try:
                saver.save()
            except Exception:
                if saver.alive():
                    _logger.exception("the run could not be saved")
                    _leave("stopped; the run resumes from its previous checkpoint", 1)
            else:
                _leave("stopped; the run is saved", EXIT_STATUS)


def _leave(message: str, code: int) -> None:
    """Ends the process from any thread. Nothing can be unwound: the main thread is inside C++."""
    _logger.warning(message)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
