"""A run that trains adapters: what it leaves alone, what it keeps, what it exports, and how it goes on."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from configs.llm import arithmetic
from gempi_jax.llm.hf import load_adapters, load_pretrained
from gempi_jax.models import merge_adapters
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.llm import run
from gempi_jax.runners.policy import load_start
from gempi_jax.runners.tasks import load_task
from gempi_jax.training.manifest import CheckpointMismatch
from gempi_jax.training.sharding import make_mesh

pytestmark = pytest.mark.slow


def quick_config():
    config = arithmetic.get_config("dar,quick")
    config.unlock()
    config.phases = ("rl",)
    # A random model solves no problem: rewards that are all 0 would move nothing.
    config.rewards = {"no_repetition": 1.0}
    config.rl.update({"num_iterations": 2, "eval_every": 2})
    config.rl.optimizer.update({"warmup_steps": 0, "learning_rate": 0.02})
    config.checkpoint.update({"every": 1, "keep": 2})
    return config


def start(config, workdir):
    return run(settings_from_config(config), workdir, config.to_dict())


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(the config, the base's folder, the workdir of a whole run)."""
    folder = tmp_path_factory.mktemp("lora")
    config = quick_config()
    settings = settings_from_config(config)
    made = load_start(settings, load_task(settings), make_mesh({}))
    made.export(folder / "base", made.params)
    config.model.path = str(folder / "base")
    config.model.lora.update({"rank": 2, "dropout": 0.1, "targets": ("q_proj", "up_proj")})
    start(config, folder / "run")
    return config, folder / "base", folder / "run"


def test_only_adapters_train_and_the_reference_is_the_base(finished):
    _, base, workdir = finished
    rows = rows_of(workdir)
    assert rows[1]["kl"] == 0.0
    assert rows[2]["kl"] != 0.0
    assert rows[2]["sampler_gap"] < 1e-4
    before, after = load_file(base / "model.safetensors"), load_file(workdir / "export/model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if np.any(before[name] != after[name])}
    assert changed == {"model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight"}


def test_a_checkpoint_holds_adapters_alone(finished):
    _, _, workdir = finished
    newest = sorted((workdir / "checkpoints").glob("step_*"))[-1]
    leaves = json.loads((newest / "manifest.json").read_text())["content"]["leaves"]
    matrices = [path for path, described in leaves.items() if "," in described]
    # Parameters, two moments of Adam and pi_t, of A and B of two projections; pi_ref is the base and takes no room.
    assert len(matrices) == 4 * 4
    assert all(path.endswith(("q_proj/a", "q_proj/b", "up_proj/a", "up_proj/b")) for path in matrices)


def test_the_exports_are_one_function(finished):
    config, base, workdir = finished
    pretrained = load_pretrained(base)
    lora, adapters = load_adapters(workdir / "export_adapter", pretrained)
    merged, export = merge_adapters(pretrained.params, adapters, lora), load_pretrained(workdir / "export")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), merged, export.params)
    values = json.loads((workdir / "export_adapter/adapter_config.json").read_text())
    assert values["base_model_name_or_path"] == config.model.path

    # And a run may start from them.
    config = config.copy_and_resolve_references()
    config.model.lora.update({"rank": 0, "path": str(workdir / "export_adapter")})
    settings = settings_from_config(config)
    again = load_start(settings, load_task(settings), make_mesh({}))
    assert again.model.lora == lora
    jax.tree.map(np.testing.assert_array_equal, again.params, adapters)


def test_a_run_goes_on_from_its_adapters_and_refuses_another_base(finished, tmp_path):
    config, base, workdir = finished
    again = tmp_path / "run"
    shutil.copytree(workdir, again)
    shutil.rmtree(sorted((again / "checkpoints").glob("step_*"))[-1])
    export = start(config, again)
    for name in ("export/model.safetensors", "export_adapter/adapter_model.safetensors"):
        assert (again / name).read_bytes() == (workdir / name).read_bytes()
    assert export == again / "export"
    # The base is no part of a checkpoint, but its bits are: adapters of another base are other policies.
    file = base / "model.safetensors"
    original = file.read_bytes()
    save_file({name: 2 * tensor for name, tensor in load_file(file).items()}, file)
    try:
        with pytest.raises(CheckpointMismatch, match="base"):
            start(config, again)
    finally:
        file.write_bytes(original)


def test_a_mesh_trains_the_adapters_of_one_device(finished, tmp_path):
    config, _, workdir = finished
    config = config.copy_and_resolve_references()
    config.mesh.update({"data": 2, "fsdp": 2})
    settings = settings_from_config(config)
    parts = load_start(settings, load_task(settings), make_mesh({"data": 2, "fsdp": 2}))
    # The base was read into its shards: half of the kernel's rows are on each device.
    kernel = parts.frozen["layers_0"]["attention"]["q_proj"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (kernel.shape[0] // 2, kernel.shape[1])
    start(config, tmp_path / "run")
    one, mesh = (load_file(run / "export_adapter/adapter_model.safetensors") for run in (workdir, tmp_path / "run"))
    assert one.keys() == mesh.keys()
    for name, adapter in one.items():
        np.testing.assert_allclose(mesh[name], adapter, rtol=1e-4, atol=1e-5, err_msg=name)
    for ours, theirs in zip(rows_of(tmp_path / "run"), rows_of(workdir), strict=True):
        for name in {"loss", "grad_norm", "kl", "estep/ess"} & theirs.keys():
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-5, err_msg=name)
