"""One run at a time in a workdir: a lock that the operating system takes back when its process ends, in any way."""

import contextlib
import datetime
import errno
import fcntl
import json
import logging
import os
import pathlib
import socket
from collections.abc import Iterator

import jax

from gempi_jax.training.writers import WorkdirError

LOCK = "lock"
_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL)
_logger = logging.getLogger(__name__)


def check_free(workdir: pathlib.Path) -> None:
    """Whether nothing else runs in a workdir, there or not; writes nothing, and the answer may be old at once.

    Raises:
      WorkdirError: see :func:`locked`.
    """
    file = workdir / LOCK
    if jax.process_index() == 0 and file.exists():
        with open(file, "rb") as opened:
            _lock(file, opened.fileno(), fcntl.LOCK_SH)


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Makes a workdir and keeps every other run out of it, for the duration of a ``with`` block.

    The processes of one job are one run; the first of them holds the lock.  The file stays, with who had it last:
    a lock on a file that somebody else removes would keep nobody out.

    Raises:
      WorkdirError: another process, here or on another machine, has the workdir (says which, and since when), or it
        cannot be written to.
    """
    if jax.process_index() != 0:
        yield
        return
    with contextlib.closing(_Open(workdir / LOCK)) as file:
        _lock(file.path, file.descriptor, fcntl.LOCK_EX)
        _sign(file.descriptor)
        # A forked worker that outlives the run would keep its lock.
        os.register_at_fork(after_in_child=file.close)
        yield


class _Open:
    """A file that is open until it is closed, in whichever process."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise WorkdirError(
                f"workdir {path.parent} cannot be written to ({error}): give another --workdir"
            ) from error
        self._closed = False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self.descriptor)


def _lock(file: pathlib.Path, descriptor: int, kind: int) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise WorkdirError(
            f"workdir {file.parent} is in use by {_owner(descriptor)}: wait for that run, end it, or give another "
            "--workdir"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _logger.warning(
            "%s cannot be locked (%s): nothing keeps a second run out of this workdir, so start none", file, error
        )


def _sign(descriptor: int) -> None:
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    owner = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": now}) + "\n"
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, owner.encode(), 0)


def _owner(descriptor: int) -> str:
    """Who signed the lock, in words; one that is just being signed has no name yet."""
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
