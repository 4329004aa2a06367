"""Rules place parameters, moments and snapshots alike, on eight fake devices."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from gempi_jax.training import manifest, sharding
from gempi_jax.training.sharding import Rule, Rules
from gempi_jax.training.state import TrainState

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


def dense(key, rows, columns):
    return {"kernel": jax.random.normal(key, (rows, columns)), "bias": jnp.zeros(columns)}


def init(key):
    keys = jax.random.split(key, 5)
    policy = {
        "embedding": jax.random.normal(keys[0], (48, 16)),
        "position_embedding": jnp.ones((10, 16)),
        "layers_0": {
            "attention": {"q_proj": dense(keys[1], 16, 16), "o_proj": dense(keys[2], 16, 16)},
            "mlp": {"up_proj": dense(keys[3], 16, 32), "down_proj": dense(keys[4], 32, 16)},
            "attention_norm": {"scale": jnp.ones(16)},
        },
    }
    params = {"policy": policy}
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=OPTIMIZER.init(params),
        duals={"temperature": jnp.ones(())},
        dual_opt_state=(),
        snapshots={"old": policy},
        key=key,
        skipped=jnp.int32(0),
        skipped_in_a_row=jnp.int32(0),
    )


def specs(tree):
    return {path: leaf.spec for path, leaf in manifest.leaf_paths(tree).items()}


def test_decoder_rules_place_every_copy_of_a_parameter_alike():
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    found = specs(sharding.state_shardings(jax.eval_shape(init, jax.random.key(0)), mesh))
    expected = {
        "embedding": P("tensor", "fsdp"),
        "position_embedding": P(),  # 160 elements: under the default's minimum
        "layers_0/attention/q_proj/kernel": P("fsdp", "tensor"),
        "layers_0/attention/q_proj/bias": P("tensor"),
        "layers_0/attention/o_proj/kernel": P("tensor", "fsdp"),
        "layers_0/attention/o_proj/bias": P(),
        "layers_0/mlp/up_proj/kernel": P("fsdp", "tensor"),
        "layers_0/mlp/up_proj/bias": P("tensor"),
        "layers_0/mlp/down_proj/kernel": P("tensor", "fsdp"),
        "layers_0/attention_norm/scale": P(),
    }
    copies = ("params/policy", "snapshots/old", "opt_state/1/0/mu/policy", "opt_state/1/0/nu/policy")
    for path, spec in expected.items():
        for copy in copies:
            assert found.pop(f"{copy}/{path}") == spec, path
    del found["params/policy/layers_0/mlp/down_proj/bias"]
    assert {spec for path, spec in found.items() if "down_proj/bias" not in path} == {P()}


def test_adapters_are_split_where_their_kernels_are():
    adapter = {"a": jnp.zeros((16, 2)), "b": jnp.zeros((2, 16))}
    tree = {"layers_0": {"attention": {"v_proj": adapter, "o_proj": adapter}, "mlp": {"down_proj": adapter}}}
    found = specs(sharding.state_shardings(tree, sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})))
    # a has the kernel's rows, b its columns; the rank is never split.
    for path, a, b in [
        ("attention/v_proj", P("fsdp"), P(None, "tensor")),
        ("attention/o_proj", P("tensor"), P(None, "fsdp")),
        ("mlp/down_proj", P("tensor"), P(None, "fsdp")),
    ]:
        assert (found[f"layers_0/{path}/a"], found[f"layers_0/{path}/b"]) == (a, b)


def test_parameters_are_born_sharded_and_the_numbers_do_not_depend_on_the_mesh():
    key = jax.random.key(3)
    one = sharding.init_sharded(init, key, mesh=sharding.make_mesh({}))
    many = sharding.init_sharded(init, key, mesh=sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2}))
    for a, b in zip(
        jax.tree.leaves(one._replace(key=one.step)), jax.tree.leaves(many._replace(key=one.step)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert many.params["policy"]["embedding"].addressable_shards[0].data.shape == (24, 8)
    assert len(many.params["policy"]["embedding"].sharding.device_set) == 8
    assert all(leaf.sharding.spec == P() and len(leaf.devices()) == 1 for leaf in jax.tree.leaves(one))


def test_a_new_state_can_be_donated():
    state = sharding.init_sharded(init, jax.random.key(0), mesh=sharding.make_mesh({"fsdp": 2}))
    step = jax.jit(lambda state: state._replace(step=state.step + 1), donate_argnums=0)
    assert step(state).step == 1
    assert state.params["policy"]["embedding"].is_deleted()
    assert state.snapshots["old"]["embedding"].is_deleted()


def test_the_default_splits_the_largest_divisible_dimension():
    mesh = sharding.make_mesh({"fsdp": 4})
    shapes = {"a": (128, 64), "b": (63, 68), "c": (63, 67), "d": (64, 64, 4), "e": (4, 4), "f": (), "g": (0, 8)}
    structs = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    expected = {"a": P("fsdp"), "b": P(None, "fsdp"), "c": P(), "d": P("fsdp"), "e": P(), "f": P(), "g": P()}
    assert specs(sharding.state_shardings(structs, mesh, Rules())) == expected


def test_factored_moments_at_a_parameters_path_follow_the_default():
    mesh = sharding.make_mesh({"fsdp": 2, "tensor": 2})
    params = {"lm_head": jax.ShapeDtypeStruct((256, 512), jnp.float32)}
    state = jax.eval_shape(optax.adafactor(1e-3, min_dim_size_to_factor=2).init, params)
    found = specs(sharding.state_shardings(state, mesh, Rules(sharding.DECODER.rules, default_minimum=256)))
    assert {spec for path, spec in found.items() if "v_row" in path or "v_col" in path} == {P("fsdp")}


def test_contradicting_rules_raise_and_agreeing_ones_do_not():
    mesh = sharding.make_mesh({"fsdp": 2, "tensor": 2})
    shapes = {"mlp": {"kernel": jax.ShapeDtypeStruct((8, 8), jnp.float32)}}
    agreeing = Rules((Rule("kernel", ("fsdp", None)), Rule("mlp/.*", ("fsdp", None)), Rule("kernel", ("tensor",))))
    assert sharding.state_shardings(shapes, mesh, agreeing)["mlp"]["kernel"].spec == P("fsdp")
    contradicting = Rules((Rule("kernel", ("fsdp", None)), Rule("mlp/.*", (None, "tensor"))))
    with pytest.raises(ValueError, match=r"contradict each other about mlp/kernel \[8, 8\].*'kernel'.*'mlp/\.\*'"):
        sharding.state_shardings(shapes, mesh, contradicting)
    with pytest.raises(ValueError, match="names the axis 'model'"):
        sharding.state_shardings(shapes, mesh, Rules((Rule("kernel", ("model", None)),)))


def test_an_axis_that_does_not_divide_is_left_out_with_a_warning(caplog):
    mesh = sharding.make_mesh({"fsdp": 2, "tensor": 4})
    shapes = {"embedding": jax.ShapeDtypeStruct((50257, 64), jnp.float32)}
    with caplog.at_level(logging.WARNING):
        assert sharding.state_shardings(shapes, mesh)["embedding"].spec == P(None, "fsdp")
    assert "embedding: 'tensor' (4) does not divide 50257" in caplog.text


def test_batches_are_spread_over_data_and_fsdp():
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    batch = sharding.put_batch({"tokens": np.zeros((8, 3)), "weights": np.zeros(8)}, mesh)
    assert batch["tokens"].sharding.spec == P(("data", "fsdp"))
    assert {shard.data.shape for shard in batch["tokens"].addressable_shards} == {(2, 3)}
    with pytest.raises(ValueError, match=r"tokens has shape \[6, 3\].*4 devices.*multiple of 4"):
        sharding.put_batch({"tokens": np.zeros((6, 3))}, mesh)
    assert sharding.batch_sharding(sharding.make_mesh({"tensor": 8})).spec == P()


def test_one_axis_may_take_the_remaining_devices():
    assert dict(sharding.make_mesh({"data": -1, "tensor": 2}).shape) == {"data": 4, "fsdp": 1, "tensor": 2}
    assert dict(sharding.make_mesh({}).shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    assert dict(sharding.make_mesh({"fsdp": 3}).shape) == {"data": 1, "fsdp": 3, "tensor": 1}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 4, "tensor": 4}, r"needs 16 devices, there are 8 \(cpu\)"),
        ({"tensr": 2}, "did you mean 'tensor'"),
        ({"data": 0}, "'data' has size 0"),
        ({"data": -1, "fsdp": -1}, "only one axis"),
        ({"data": -1, "fsdp": 3}, "8 devices are no multiple of the 3"),
    ],
)
def test_impossible_meshes_are_named(sizes, message):
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(sizes)
