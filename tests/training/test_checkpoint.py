"""Checkpoints: exact round trips, straight into shards, and nothing lost whatever kills, tears or confuses them."""

import json
import logging
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gempi_jax.training import checkpoint, manifest
from gempi_jax.training.state import TrainState

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
FINGERPRINT = {"model": {"width": 8}, "method": "vmpo"}
OPTIMIZER = optax.adam(1e-3)


def make_state(seed=0, width=8):
    numbers = np.random.default_rng(seed)
    policy = {
        "dense": {
            "kernel": jnp.asarray(numbers.normal(size=(8, width)), jnp.bfloat16),
            "bias": jnp.asarray(numbers.normal(size=(width,)), jnp.float32),
        },
        "empty": jnp.zeros((0, 3)),
    }
    params = {"policy": policy}
    return TrainState(
        step=jnp.int32(seed),
        params=params,
        opt_state=OPTIMIZER.init(params),
        duals={"temperature": jnp.asarray(numbers.normal(), jnp.float32)},
        dual_opt_state=(),
        snapshots={"old": jax.tree.map(jnp.copy, policy)},
        key=jax.random.key(seed, impl="rbg" if seed % 2 else None),
        skipped=jnp.int32(0),
        skipped_in_a_row=jnp.int32(0),
    )


def plain(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def assert_identical(state, expected):
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for found, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert found.dtype == wanted.dtype
        assert np.asarray(plain(found)).tobytes() == np.asarray(plain(wanted)).tobytes()


def make_checkpointer(folder, **changes):
    return checkpoint.Checkpointer(folder / "checkpoints", **{"keep": 3, "fingerprint": FINGERPRINT, **changes})


def damage(path, how):
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))


@pytest.mark.parametrize("seed", [0, 1])
def test_round_trip_is_exact(tmp_path, seed):
    state, host = make_state(seed), {"data": {"position": 2**70, "ratio": 0.1}, "phase": "rl"}
    make_checkpointer(tmp_path).save(12, state, host)
    restored = make_checkpointer(tmp_path).restore_latest(jax.eval_shape(lambda: state))
    assert_identical(restored.state, state)
    assert isinstance(restored.state, TrainState)
    assert (restored.host, restored.step) == (host, 12)
    assert jax.random.key_impl(restored.state.key) == jax.random.key_impl(state.key)
    assert jax.random.normal(restored.state.key) == jax.random.normal(state.key)


def test_nothing_to_restore(tmp_path):
    assert make_checkpointer(tmp_path).restore_latest(make_state()) is None
    assert list(tmp_path.iterdir()) == []


def test_restores_onto_another_mesh_straight_into_shards(tmp_path):
    def on_mesh(devices):
        mesh = jax.make_mesh((devices,), ("fsdp",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
        split = jax.tree.map(lambda leaf: leaf.ndim == 2 and leaf.shape[0] == 8, make_state())
        specs = {True: PartitionSpec("fsdp"), False: PartitionSpec()}
        return jax.tree.map(lambda is_split: NamedSharding(mesh, specs[is_split]), split)

    state = make_state()
    make_checkpointer(tmp_path).save(1, jax.device_put(state, on_mesh(4)), {})
    shapes = jax.eval_shape(lambda: state)
    for devices in (8, 1):
        template = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            on_mesh(devices),
        )
        restored = make_checkpointer(tmp_path).restore_latest(template).state
        assert_identical(restored, state)
        jax.tree.map(lambda leaf, wanted: np.testing.assert_equal(leaf.sharding, wanted), restored, on_mesh(devices))
        kernel = restored.params["policy"]["dense"]["kernel"]
        assert kernel.addressable_shards[0].data.shape == (8 // devices, 8)


def test_the_template_may_depend_on_the_phase(tmp_path):
    make_checkpointer(tmp_path).save(3, {"x": jnp.ones(2)}, {"phase": "sft"})
    templates = {"sft": {"x": jnp.zeros(2)}, "rl": {"x": jnp.zeros(2), "y": jnp.zeros(())}}
    restored = make_checkpointer(tmp_path).restore_latest(lambda host: templates[host["phase"]])
    np.testing.assert_array_equal(restored.state["x"], [1, 1])


def test_only_the_latest_are_kept_and_a_step_is_written_once(tmp_path):
    checkpointer = make_checkpointer(tmp_path, keep=2)
    for step in (1, 5, 20):
        checkpointer.save(step, {"x": jnp.int32(step)}, {})
    written = (tmp_path / "checkpoints" / "step_000000020").stat()
    checkpointer.save(20, {"x": jnp.int32(20)}, {})
    assert (tmp_path / "checkpoints" / "step_000000020").stat().st_ino == written.st_ino
    assert checkpointer.steps() == [5, 20]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step_000000005", "step_000000020"]


@pytest.mark.parametrize("how", ["missing", "truncated", "flipped"])
def test_damage_is_passed_over_then_replaced_and_displaces_nothing_good(tmp_path, how, caplog):
    checkpointer = make_checkpointer(tmp_path, keep=2)
    for step in (10, 20):
        checkpointer.save(step, {"x": jnp.full(100, step)}, {"step": step})
    folder = tmp_path / "checkpoints" / "step_000000020"
    data = [file for file in folder.glob("arrays/**/d/*") if file.is_file()]
    damage(max(data, key=lambda file: file.stat().st_size), how)
    checkpointer = make_checkpointer(tmp_path, keep=2)
    with caplog.at_level(logging.WARNING):
        restored = checkpointer.restore_latest({"x": jnp.zeros(100, jnp.int32)})
    assert (restored.step, restored.host) == (10, {"step": 10})
    assert "step_000000020 is passed over" in caplog.text
    checkpointer.save(15, {"x": jnp.full(100, 15)}, {})
    assert checkpointer.steps() == [10, 15, 20]
    checkpointer.save(20, {"x": jnp.full(100, 20)}, {})
    assert checkpointer.steps() == [15, 20]
    restored = make_checkpointer(tmp_path).restore_latest({"x": jnp.zeros(100, jnp.int32)})
    assert restored.step == 20


@pytest.mark.parametrize("how", ["truncated", "flipped"])
def test_every_file_of_a_checkpoint_is_guarded(tmp_path, how):
    make_checkpointer(tmp_path).save(1, {"x": jnp.arange(100)}, {"position": 1})
    files = [file for file in (tmp_path / "checkpoints").rglob("*") if file.is_file() and file.stat().st_size]
    assert len(files) > 3
    for file in files:
        content = file.read_bytes()
        damage(file, how)
        assert make_checkpointer(tmp_path).restore_latest({"x": jnp.arange(100)}) is None, file
        file.write_bytes(content)
    assert make_checkpointer(tmp_path).restore_latest({"x": jnp.arange(100)}) is not None


def test_folders_that_are_no_checkpoints_are_passed_over(tmp_path, caplog):
    checkpointer = make_checkpointer(tmp_path)
    checkpointer.save(1, {"x": jnp.ones(())}, {})
    for name, text in (("step_000000002", None), ("step_000000003", "{}"), ("step_000000004", "[1"), ("notes", "x")):
        (tmp_path / "checkpoints" / name).mkdir()
        if text is not None:
            (tmp_path / "checkpoints" / name / "manifest.json").write_text(text)
    assert make_checkpointer(tmp_path).restore_latest({"x": jnp.zeros(())}).step == 1
    assert len([record for record in caplog.records if "passed over" in record.message]) == 3


@pytest.mark.parametrize(
    ("fingerprint", "template", "message"),
    [
        ({"model": {"width": 16}, "method": "vmpo"}, None, r"model\.width is 8 there and 16 in this run"),
        (
            FINGERPRINT,
            make_state(width=16),
            r"params/policy/dense/bias is float32\[8\] there and float32\[16\] in this run",
        ),
        (
            FINGERPRINT,
            make_state()._replace(skipped=jnp.float32(0)),
            r"skipped is int32\[\] there and float32\[\] in this run",
        ),
        (FINGERPRINT, make_state()._replace(duals={}), r"duals/temperature is float32\[\] there and \(absent\)"),
        (
            FINGERPRINT,
            make_state()._replace(
                snapshots={"ref": make_state().params["policy"], "old": make_state().params["policy"]}
            ),
            r"snapshots/ref/dense/bias is \(absent\) there",
        ),
        (FINGERPRINT, make_state(1), r"key is key<fry>\[\] there and key<rbg>\[\]"),
    ],
)
def test_another_model_is_refused_by_its_first_difference(tmp_path, fingerprint, template, message):
    make_checkpointer(tmp_path).save(7, make_state(), {})
    files = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(manifest.CheckpointMismatch, match=message) as error:
        make_checkpointer(tmp_path, fingerprint=fingerprint).restore_latest(template or make_state())
    assert "step_000000007" in str(error.value)
    assert "another workdir" in str(error.value)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == files


def test_what_cannot_be_stored_is_named(tmp_path):
    checkpointer = make_checkpointer(tmp_path)
    with pytest.raises(TypeError, match=r"a/b is 3, no jax array"):
        checkpointer.save(1, {"a": {"b": 3}}, {})
    with pytest.raises(TypeError, match=r"host\.position is array"):
        checkpointer.save(1, {"a": jnp.ones(())}, {"position": np.zeros(2)})
    with pytest.raises(TypeError, match=r"host\.data has the key 1"):
        checkpointer.save(1, {"a": jnp.ones(())}, {"data": {1: 2}})
    with pytest.raises(ValueError, match="keep = 0"):
        make_checkpointer(tmp_path, keep=0)
    assert list(tmp_path.iterdir()) == []


def test_a_donated_state_cannot_be_saved_and_leaves_no_checkpoint(tmp_path):
    checkpointer = make_checkpointer(tmp_path)
    host = {"position": 1}
    x = jnp.ones(4)
    pending = checkpointer.prepare(1, {"key": jax.random.key(0), "x": x}, host)
    host["position"] = 2
    assert pending.alive()
    later = checkpointer.prepare(2, {"key": jax.random.key(0), "x": jnp.zeros(4)}, host)
    x.delete()
    assert not pending.alive()
    with pytest.raises(RuntimeError, match="deleted"):
        pending.save()
    assert checkpointer.steps() == []
    later.save()
    assert checkpointer.steps() == [2]
    assert make_checkpointer(tmp_path).restore_latest({"key": jax.random.key(1), "x": x}).host == {"position": 2}


# Forks before the backend starts, so that each victim costs no import. A victim resumes, checks what it found, and
# saves as fast as it can until it is killed; the state of step s is s everywhere, so any mixture shows.
VICTIMS = """
import os, random, signal, sys, time
import jax, jax.numpy as jnp, numpy as np
from gempi_jax.training.checkpoint import Checkpointer

def state(step):
    return {"a": jnp.full(30_000, step), "b": {"c": jnp.full((3, 5), step, jnp.bfloat16)}, "key": jax.random.key(step)}

def victim(ready):
    checkpointer = Checkpointer(sys.argv[1], keep=2, fingerprint={})
    restored = checkpointer.restore_latest(state(0))
    step = 0 if restored is None else restored.step
    for found, wanted in zip(jax.tree.leaves(restored.state if restored else ()), jax.tree.leaves(state(step))):
        assert (found == wanted).all()
    assert restored is None or restored.host == {"step": step}
    os.write(ready, b"%d " % step)
    while True:
        step += 1
        checkpointer.save(step, state(step), {"step": step})
        os.write(ready, b"%d " % step)

delays = random.Random(0)
for _ in range(int(sys.argv[2])):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            victim(writer)
        finally:
            os._exit(1)
    os.close(writer)
    resumed_at = os.read(reader, 100)
    begin = time.monotonic()
    assert os.read(reader, 100), f"the victim ended by itself after {resumed_at}"
    one_save = time.monotonic() - begin
    time.sleep(delays.uniform(0.0, 1.5 * one_save))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reader)
    print(resumed_at.split()[0].decode())
"""


@pytest.mark.slow
def test_killed_at_any_moment_the_run_goes_on_from_its_latest_checkpoint(tmp_path):
    # Many kills must land inside a save, or this proves nothing: half-written folders show that they did.
    code = VICTIMS + "    print(sum('.unfinished' in name for name in os.listdir(sys.argv[1])), file=sys.stderr)\n"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": "", "PYTHONWARNINGS": "ignore"}
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "8"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    steps = [int(step) for step in run.stdout.split()]
    assert len(steps) == 8
    assert steps == sorted(set(steps))  # each victim completed a save at least, and nobody lost it
    half_written = [line for line in run.stderr.splitlines() if line in ("1", "2")]
    assert len(half_written) >= 3
    restored = checkpoint.Checkpointer(tmp_path, keep=2, fingerprint={}).steps()
    assert restored[-1] > steps[-1]
    content = json.loads((tmp_path / f"step_{restored[-1]:09d}" / "manifest.json").read_text())["content"]
    assert content["host"] == {"step": restored[-1]}
