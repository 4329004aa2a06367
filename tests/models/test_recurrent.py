"""LSTM and GRU against torch, and every core step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.models import GRU, LSTM, MLPCore, gtrxl

CORES = {"lstm": LSTM(4), "gru": GRU(4), "mlp": MLPCore((5, 4))}
INPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 3)), jnp.float32)
RESETS = jnp.zeros((2, 6), bool).at[0, 3].set(True).at[1, 0].set(True)


def random_params(core):
    generator = np.random.default_rng(1)
    shapes = jax.eval_shape(core.init, jax.random.key(0), INPUTS, RESETS, core.initial_memory(2))["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * generator.normal(size=leaf.shape), jnp.float32), shapes)


@pytest.mark.parametrize("name", CORES)
def test_steps_are_a_chunk_and_episodes_begin_from_nothing(name):
    core, params = CORES[name], random_params(CORES[name])
    run = jax.jit(lambda inputs, resets, memory: core.apply({"params": params}, inputs, resets, memory))
    chunk, after_chunk = run(INPUTS, RESETS, core.initial_memory(2))

    memory, steps = core.initial_memory(2), []
    for t in range(6):
        output, memory = run(INPUTS[:, t : t + 1], RESETS[:, t : t + 1], memory)
        steps.append(output)
    np.testing.assert_allclose(jnp.concatenate(steps, axis=1), chunk, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), memory, after_chunk)

    # From its fourth step on the first environment is in a new episode.
    alone, _ = run(INPUTS[:, 3:], jnp.zeros((2, 3), bool), core.initial_memory(2))
    np.testing.assert_allclose(chunk[0, 3:], alone[0], atol=1e-6)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_cells_are_those_of_torch(name):
    torch = pytest.importorskip("torch")
    core, params = CORES[name], random_params(CORES[name])
    ours, _ = core.apply({"params": params}, INPUTS, jnp.zeros((2, 6), bool), core.initial_memory(2))

    theirs = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[name](3, 4, batch_first=True)
    hidden_bias = np.zeros(theirs.bias_hh_l0.shape, np.float32)
    if name == "gru":
        hidden_bias[8:] = params["candidate_bias"]
    input_bias = params["bias"] if name == "lstm" else params["input"]["bias"]
    pairs = {
        "weight_ih_l0": params["input"]["kernel"].T,
        "weight_hh_l0": params["recurrent"].T,
        "bias_ih_l0": input_bias,
        "bias_hh_l0": hidden_bias,
    }
    theirs.load_state_dict({key: torch.tensor(np.array(value)) for key, value in pairs.items()})
    np.testing.assert_allclose(ours, theirs(torch.tensor(np.array(INPUTS)))[0].detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("core", [LSTM(4), GRU(4), MLPCore(), gtrxl(4)], ids=["lstm", "gru", "mlp", "gtrxl"])
def test_a_fresh_memory_can_be_donated_and_cut_by_environment(core):
    leaves = jax.tree.leaves(core.initial_memory(3))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
    assert all(leaf.shape[0] == 3 for leaf in leaves)


def test_a_fresh_lstm_keeps_what_it_has():
    arguments = (INPUTS, RESETS, CORES["lstm"].initial_memory(2))
    bias = jax.jit(CORES["lstm"].init)(jax.random.key(0), *arguments)["params"]["bias"]
    # i, f, g, o: only the forget gate's bias is 1.
    np.testing.assert_array_equal(bias, [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0])


def test_memory_has_the_dtype_asked_for():
    core = LSTM(4, dtype=jnp.bfloat16)
    arguments = (INPUTS, RESETS, core.initial_memory(2))
    outputs, memory = jax.jit(lambda key: core.apply(core.init(key, *arguments), *arguments))(jax.random.key(0))
    assert outputs.dtype == memory.cell.dtype == memory.hidden.dtype == jnp.bfloat16
