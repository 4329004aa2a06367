"""Signals at every phase of a run: real processes, exit code 75, and a checkpoint that can be restored."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import warnings

import pytest

from gempi_jax.training.preemption import Preempted, Preemption

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

# Forks before the backend starts, so that each phase costs no import. Every phase but the polling one would take a
# minute or more; the main thread is inside C++ (or inside sleep) when the signal comes.
PHASES = '''
import json, os, signal, sys, threading, time, traceback
import jax, jax.numpy as jnp
from gempi_jax.training.checkpoint import Checkpointer
from gempi_jax.training.preemption import Preemption

def make_state():
    return {"x": jnp.full((300, 100), 3.0), "key": jax.random.key(5)}

def compile_for_long(x):
    for i in range(600):
        x = jnp.sin(x @ x) + i
    return x

@jax.jit
def compute_for_long(x):
    return jax.lax.while_loop(lambda c: c[0] < jnp.inf, lambda c: (c[0] + 1.0, jnp.sin(c[1])), (x, x))[1]

class SlowSaver:
    """Of a checkpoint that takes a while, so that a second signal meets it."""
    def __init__(self, pending):
        self.pending, self.alive = pending, pending.alive
    def save(self):
        time.sleep(0.5)
        self.pending.save()

def phase(name, directory, ready):
    checkpointer = Checkpointer(directory, keep=2, fingerprint={})
    state = make_state()
    with Preemption(grace_seconds=0.2, patience_seconds=3.0 if name == "donated" else 60.0) as preemption:
        pending = checkpointer.prepare(7, state, {"phase": name})
        if name != "before the first iteration":
            preemption.hold(SlowSaver(pending) if name == "a second signal" else pending)
        if name == "compilation":
            lowered = jax.jit(compile_for_long).lower(jnp.ones((16, 16)))
            os.write(ready, b"!")
            lowered.compile()
        elif name == "computation":
            compiled = compute_for_long.lower(jnp.float32(0)).compile()
            os.write(ready, b"!")
            jax.block_until_ready(compiled(jnp.float32(0)))
        elif name == "saving":
            os.write(ready, b"!")
            for step in range(8, 10**9):
                checkpointer.save(step, state, {"phase": name})
        elif name == "polling":
            os.write(ready, b"!")
            try:
                while True:
                    time.sleep(0.01)
                    preemption.poll()
            finally:  # the watcher leaves it the time to unwind
                time.sleep(0.6)
                open(os.path.join(directory, "unwound"), "w").close()
        elif name == "donated":
            pending.save()
            jax.jit(lambda state: jax.tree.map(jnp.copy, state), donate_argnums=0)(state)
            assert not pending.alive()
            os.write(ready, b"!")
            time.sleep(100)
        else:
            os.write(ready, b"!")
            time.sleep(100)

for name in json.loads(sys.argv[2]):
    directory = os.path.join(sys.argv[1], name)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            phase(name, directory, writer)
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    os.read(reader, 1)
    time.sleep(0.1)
    os.kill(child, signal.SIGINT if name == "python sleep" else signal.SIGTERM)
    begin = time.monotonic()
    if name == "a second signal":
        time.sleep(0.4)
        os.kill(child, signal.SIGTERM)
        os.kill(child, signal.SIGINT)
    _, status = os.waitpid(child, 0)
    print(json.dumps({"phase": name, "status": status, "seconds": time.monotonic() - begin}), flush=True)

for name in json.loads(sys.argv[2]):
    checkpointer = Checkpointer(os.path.join(sys.argv[1], name), keep=2, fingerprint={})
    if (restored := checkpointer.restore_latest(jax.eval_shape(make_state))) is not None:
        assert (restored.state["x"] == 3).all()
        assert restored.state["key"] == jax.random.key(5)
        assert restored.host == {"phase": name}
        print(json.dumps({"phase": name, "step": restored.step}))
'''


@pytest.mark.slow
def test_every_phase_ends_with_the_status_of_a_stop_and_a_checkpoint(tmp_path):
    phases = ["compilation", "computation", "python sleep", "saving", "a second signal", "polling", "donated"]
    phases.append("before the first iteration")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": "", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", PHASES, str(tmp_path), json.dumps(phases)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    results = {name: {} for name in phases}
    for line in run.stdout.splitlines():
        result = json.loads(line)
        results[result["phase"]].update(result)
    assert [result["status"] for result in results.values()] == [75 << 8] * len(phases), run.stderr
    assert max(result["seconds"] for result in results.values()) < 15, results
    assert (tmp_path / "polling" / "unwound").exists()
    steps = {name: result.get("step") for name, result in results.items()}
    assert steps.pop("saving") > 7
    assert steps.pop("before the first iteration") is None
    assert set(steps.values()) == {7}


class FakeSaver:
    def __init__(self):
        self.saves, self.lives = 0, True

    def alive(self):
        return self.lives

    def save(self):
        self.saves += 1


def wait_until_noticed(preemption):
    deadline = time.monotonic() + 10
    while not preemption._signalled.is_set():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_process_a_signal_saves_once_and_everything_is_put_back(number):
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    threads = threading.active_count()
    saver = FakeSaver()

    def run():
        with Preemption(grace_seconds=60.0) as preemption:
            preemption.hold(saver)
            preemption.poll()
            os.kill(os.getpid(), number)
            wait_until_noticed(preemption)
            os.kill(os.getpid(), number)
            preemption.poll()

    with pytest.raises(Preempted) as preempted:
        run()
    assert preempted.value.code == 75
    assert saver.saves == 1
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads


def test_a_donated_state_waits_for_its_successor():
    dead, alive = FakeSaver(), FakeSaver()

    def run():
        with Preemption(grace_seconds=60.0) as preemption:
            preemption.hold(dead)
            dead.lives = False
            os.kill(os.getpid(), signal.SIGTERM)
            wait_until_noticed(preemption)
            preemption.poll()
            preemption.hold(alive)

    with pytest.raises(Preempted):
        run()
    assert (dead.saves, alive.saves) == (0, 1)


def test_without_a_signal_nothing_is_saved():
    saver = FakeSaver()
    with Preemption() as preemption:
        preemption.hold(saver)
        preemption.poll()
    assert saver.saves == 0


def test_the_end_of_a_forked_worker_does_not_stop_the_run():
    with Preemption(grace_seconds=60.0) as preemption:
        for _ in range(5):
            child = _fork_sleeper()
            os.kill(child, signal.SIGTERM)
            _, status = os.waitpid(child, 0)
            assert os.WTERMSIG(status) == signal.SIGTERM
        time.sleep(0.05)
        assert not preemption._signalled.is_set()


def _fork_sleeper():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jax warns about forks; this child does nothing but sleep
        child = os.fork()
    if child == 0:
        time.sleep(10)
        os._exit(0)
    return child
