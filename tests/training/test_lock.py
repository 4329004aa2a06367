"""One run at a time in a workdir, however the run before it ended."""

import contextlib
import errno
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from gempi_jax.training.lock import LOCK, check_free, locked
from gempi_jax.training.writers import WorkdirError, workdir_path

HOLD = """
import pathlib, sys, time
from gempi_jax.training.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_workdir_is_kept_until_its_process_is_gone(tmp_path):
    workdir = tmp_path / "run"
    check_free(workdir)
    assert not workdir.exists()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(workdir)], stdout=subprocess.PIPE, text=True, cwd=pathlib.Path.cwd()
    )
    assert holder.stdout.readline() == "held\n"
    before = (workdir / LOCK).read_bytes()
    for attempt in (check_free, lambda path: locked(path).__enter__()):
        with pytest.raises(WorkdirError, match=rf"in use by process {holder.pid} on .* since 20.*: wait for that run"):
            attempt(workdir)
    assert (workdir / LOCK).read_bytes() == before
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    # Killed, it left nothing that would have to be removed.
    check_free(workdir)
    with locked(workdir):
        assert str(os.getpid()) in (workdir / LOCK).read_text()
    check_free(workdir)


FORK = """
import os, pathlib, sys, time
from gempi_jax.training.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


def test_a_worker_that_outlives_its_run_keeps_no_lock(tmp_path):
    command = [sys.executable, "-c", FORK, str(tmp_path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(WorkdirError):
            check_free(tmp_path)
        holder.kill()
        holder.wait()
        os.kill(child, 0)  # it lives
        # On a busy machine the child may not have come to letting go yet.
        for _ in range(100):
            with contextlib.suppress(WorkdirError):
                check_free(tmp_path)
                break
            time.sleep(0.1)
        check_free(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    with locked(tmp_path):
        pass
    assert "cannot be locked ([Errno 95] Operation not supported): nothing keeps a second run out" in caplog.text


def test_the_other_processes_of_a_job_are_the_same_run(tmp_path, monkeypatch):
    with locked(tmp_path):
        monkeypatch.setattr("jax.process_index", lambda: 1)
        check_free(tmp_path)
        with locked(tmp_path):
            pass


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert workdir_path("~/runs/a") == tmp_path / "runs/a"
    with pytest.raises(WorkdirError, match="~nobody_here is nobody's home; give a full path"):
        workdir_path("~nobody_here/runs")
