"""Transformer-XL cores: against a double loop, against the original layer in torch, step by step, and their memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gempi_jax.models import (
    GRUGate,
    HighwayGate,
    InputGate,
    OutputGate,
    Residual,
    SigmoidTanhGate,
    gtrxl,
    trxl,
    trxl_i,
)
from gempi_jax.models.relative_attention import sinusoids

SIZES = {"num_layers": 2, "num_heads": 2, "mlp_width": 6, "memory_length": 3, "unroll_length": 5}
CORES = {
    "trxl": trxl(8, **SIZES),
    "trxl_i": trxl_i(8, **SIZES),
    "input": gtrxl(8, InputGate, **SIZES),
    "output": gtrxl(8, OutputGate, **SIZES),
    "highway": gtrxl(8, HighwayGate, **SIZES),
    "sigmoid_tanh": gtrxl(8, SigmoidTanhGate, **SIZES),
    "gru": gtrxl(8, **SIZES),
}
BATCH, STEPS = 2, 5


def random_params(core, seed=0):
    """Parameters of which none is zero, so that biases and norms count."""
    generator = np.random.default_rng(seed)
    arguments = (jnp.zeros((1, 1, core.width)), jnp.zeros((1, 1), bool), core.initial_memory(1))
    shapes = jax.eval_shape(core.init, jax.random.key(0), *arguments)["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(0.6 * generator.normal(size=leaf.shape), jnp.float32), shapes)


def compiled(core):
    return jax.jit(lambda params, inputs, resets, memory: core.apply({"params": params}, inputs, resets, memory))


RUN = {name: compiled(core) for name, core in CORES.items()}
PARAMS = {name: random_params(core) for name, core in CORES.items()}


def stepwise(name, inputs, resets, memory):
    """One step at a time, compiled once."""
    outputs = []
    for t in range(inputs.shape[1]):
        output, memory = RUN[name](PARAMS[name], inputs[:, t : t + 1], resets[:, t : t + 1], memory)
        outputs.append(output)
    return jnp.concatenate(outputs, axis=1), memory


def sequence(seed, steps=STEPS, chance=0.0):
    generator = np.random.default_rng(seed)
    inputs = jnp.asarray(generator.normal(size=(BATCH, steps, 8)), jnp.float32)
    return inputs, jnp.asarray(generator.random((BATCH, steps)) < chance)


# The double loop: float64, one query and one key at a time, all that is written here derived from the papers.


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def layer_norm(x, params):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * params["scale"] + params["bias"]


def gate_by_hand(name, x, y, p):
    d = x.size
    if name in ("trxl", "trxl_i"):
        return x + y
    if name == "input":
        return sigmoid(x @ p["stream"]["kernel"]) * x + y
    if name == "output":
        return x + sigmoid(x @ p["stream"]["kernel"] - p["bias"]) * y
    if name == "highway":
        s = sigmoid(x @ p["stream"]["kernel"] + p["bias"])
        return s * x + (1 - s) * y
    if name == "sigmoid_tanh":
        w, u = p["output"]["kernel"][:, :d], p["output"]["kernel"][:, d:]
        return x + sigmoid(y @ w - p["bias"]) * np.tanh(y @ u)
    w_r, w_z, w_g = np.split(p["output"]["kernel"], 3, axis=1)
    u_r, u_z = np.split(p["stream"]["kernel"], 2, axis=1)
    r, z = sigmoid(y @ w_r + x @ u_r), sigmoid(y @ w_z + x @ u_z - p["bias"])
    h = np.tanh(y @ w_g + (r * x) @ p["candidate"]["kernel"])
    return (1 - z) * x + z * h


def attend_by_hand(history, p, heads=2):
    """The last entry of ``history`` attends to all of it, itself at distance 0."""
    dim = history[0].size // heads
    flat = {name: p[name].reshape(history[0].size, -1) for name in ("query", "key", "value", "relative")}
    query, keys, values = history[-1] @ flat["query"], history @ flat["key"], history @ flat["value"]
    result = []
    for head in range(heads):
        part = slice(head * dim, (head + 1) * dim)
        scores = []
        for j in range(len(history)):
            distance = len(history) - 1 - j
            rates = [10000.0 ** (-2 * k / history[0].size) for k in range(history[0].size // 2)]
            angles = np.array([distance * rate for rate in rates])
            r = np.concatenate([np.sin(angles), np.cos(angles)]) @ flat["relative"]
            content = (query[part] + p["content_bias"][head]) @ keys[j, part]
            scores.append((content + (query[part] + p["distance_bias"][head]) @ r[part]) / np.sqrt(dim))
        weights = np.exp(scores - np.max(scores))
        result.append(weights / weights.sum() @ values[:, part])
    return np.concatenate(result) @ p["output"].reshape(-1, history[0].size)


def core_by_hand(name, params, inputs, resets, span=SIZES["memory_length"]):
    """One environment [T, D] from an empty memory."""
    first = name != "trxl"
    stream = [np.asarray(x, np.float64) for x in inputs]
    starts = [max([s for s in range(t + 1) if resets[s]], default=0) for t in range(len(stream))]
    for number in range(SIZES["num_layers"]):
        p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params[f"blocks_{number}"])

        def join(x, y, part, p=p):
            gate = p.get(f"{part}_gate", {})
            if first:
                return gate_by_hand(name, x, np.maximum(y, 0), gate)
            return layer_norm(gate_by_hand(name, x, y, gate), p[f"{part}_norm"])

        after = []
        for t in range(len(stream)):
            history = [stream[j] for j in range(max(starts[t], t - span), t + 1)]
            read = [layer_norm(x, p["attention_norm"]) for x in history] if first else history
            x = join(stream[t], attend_by_hand(read, p["attention"]), "attention")
            read = layer_norm(x, p["mlp_norm"]) if first else x
            hidden = np.maximum(read @ p["mlp_up"]["kernel"] + p["mlp_up"]["bias"], 0)
            after.append(join(x, hidden @ p["mlp_down"]["kernel"] + p["mlp_down"]["bias"], "mlp"))
        stream = after
    return np.stack(stream)


@pytest.mark.parametrize("name", CORES)
def test_a_chunk_and_its_steps_are_what_a_double_loop_computes(name):
    # Two chunks of five, so that the second reads a memory of three, and an episode that begins in the middle of it.
    inputs, _ = sequence(1, 10)
    resets = jnp.zeros((BATCH, 10), bool).at[0, 7].set(True).at[1, 5].set(True)
    expected = np.stack([core_by_hand(name, PARAMS[name], inputs[b], resets[b]) for b in range(BATCH)])

    empty = CORES[name].initial_memory(BATCH)
    head, memory = RUN[name](PARAMS[name], inputs[:, :5], resets[:, :5], empty)
    tail, _ = RUN[name](PARAMS[name], inputs[:, 5:], resets[:, 5:], memory)
    steps, _ = stepwise(name, inputs, resets, empty)

    np.testing.assert_allclose(jnp.concatenate([head, tail], axis=1), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(steps, expected, rtol=1e-4, atol=1e-5)


@given(st.sampled_from(["trxl", "gru"]), st.integers(0, 10**6), st.sampled_from([0.0, 0.1, 0.4]), st.integers(0, 13))
@settings(max_examples=25)
def test_stepping_is_a_chunk_wherever_episodes_begin_and_however_full_the_memory_is(name, seed, chance, before):
    past, ends = sequence(seed, before + 1, chance)
    memory = CORES[name].initial_memory(BATCH)
    for t in range(before):
        _, memory = RUN[name](PARAMS[name], past[:, t : t + 1], ends[:, t : t + 1], memory)
    inputs, resets = sequence(seed + 1, STEPS, chance)
    chunk, after_chunk = RUN[name](PARAMS[name], inputs, resets, memory)
    steps, after_steps = stepwise(name, inputs, resets, memory)

    np.testing.assert_allclose(steps, chunk, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), after_steps, after_chunk)


def test_the_learner_reads_the_memory_of_the_unrolls_beginning_from_the_ring_written_since():
    past, resets = sequence(3, 7)
    _, start = stepwise("gru", past, resets, CORES["gru"].initial_memory(BATCH))
    inputs, resets = sequence(4)
    acted, end = stepwise("gru", inputs, resets.at[0, 2].set(True), start)

    again, _ = RUN["gru"](PARAMS["gru"], inputs, resets.at[0, 2].set(True), end.rewound(start))
    np.testing.assert_allclose(again, acted, atol=1e-5)


def test_acting_writes_the_memory_in_place():
    core = CORES["gru"]
    memory = core.initial_memory(BATCH)

    def act(params, inputs, memory):
        def step(memory, x):
            outputs, memory = core.apply({"params": params}, x[:, None], jnp.zeros((BATCH, 1), bool), memory)
            return memory, outputs

        return jax.lax.scan(step, memory, inputs.swapaxes(0, 1))

    program = jax.jit(act, donate_argnums=2).lower(PARAMS["gru"], sequence(14)[0], memory).compile().as_text()
    # 2 environments, 2 layers, a ring of 3 + 5 slots of 8.
    ring = "f32[2,2,8,8]"
    assert any(ring in line and "dynamic-update-slice" in line for line in program.splitlines())
    assert not any(f"= {ring}" in line and " copy(" in line for line in program.splitlines())


def gradients(core, params, inputs, resets, memory):
    """d output_t / d input_j, by whether it is zero, of the first environment [T, T]."""
    jacobian = jax.jit(jax.jacobian(lambda x: core.apply({"params": params}, x, resets, memory)[0][0].sum(-1)))(inputs)
    return np.abs(np.asarray(jacobian)[:, 0]).max(-1) > 0


def test_a_query_reaches_exactly_memory_length_steps_back_and_none_ahead():
    core = trxl_i(8, num_layers=1, num_heads=2, mlp_width=6, memory_length=3)
    inputs, resets = sequence(5, 8)
    reached = gradients(core, random_params(core), inputs, resets, core.initial_memory(BATCH))
    distance = np.arange(8)[:, None] - np.arange(8)[None]
    np.testing.assert_array_equal(reached, (distance >= 0) & (distance <= 3))


def test_nothing_is_seen_across_the_beginning_of_an_episode():
    core = CORES["gru"]
    inputs, resets = sequence(6, 8)
    reached = gradients(core, PARAMS["gru"], inputs, resets.at[0, 4].set(True), core.initial_memory(BATCH))
    assert not reached[4:, :4].any()
    assert reached[7, 4]


def test_no_gradient_flows_into_the_memory():
    core = CORES["gru"]
    inputs, resets = sequence(7)
    _, memory = RUN["gru"](PARAMS["gru"], *sequence(8), core.initial_memory(BATCH))

    def loss(states, inputs):
        outputs, after = core.apply({"params": PARAMS["gru"]}, inputs, resets, memory._replace(states=states))
        return outputs.sum(), after.states.sum()

    of_memory = jax.jit(jax.grad(lambda states: loss(states, inputs)[0]))(memory.states)
    of_inputs = jax.jit(jax.grad(lambda x: loss(memory.states, x)[1]))(inputs)
    assert not any(np.abs(leaf).any() for leaf in (of_memory, of_inputs))


def test_empty_slots_change_nothing_whatever_they_hold():
    core = CORES["gru"]
    inputs, resets = sequence(9)
    empty = core.initial_memory(BATCH)
    garbage = empty._replace(states=jnp.full_like(empty.states, 1e3))
    plain, _ = RUN["gru"](PARAMS["gru"], inputs, resets, empty)
    np.testing.assert_array_equal(RUN["gru"](PARAMS["gru"], inputs, resets, garbage)[0], plain)


def test_a_fresh_gru_gated_core_is_nearer_the_identity_than_the_ungated_one():
    # z = sigmoid(-2 + noise) is 0.12 on average: each gate passes most of the stream.
    inputs, resets = sequence(10)

    def similarity(core):
        arguments = (inputs, resets, core.initial_memory(BATCH))
        outputs = jax.jit(lambda key: core.apply(core.init(key, *arguments), *arguments)[0])(jax.random.key(0))
        norms = jnp.linalg.norm(inputs) * jnp.linalg.norm(outputs)
        return jnp.sum(inputs * outputs) / norms

    assert similarity(gtrxl(8, GRUGate, **SIZES)) > 0.9
    assert similarity(trxl(8, **SIZES)) < 0.85


def test_bfloat16_computes_the_same_to_its_precision_with_float32_parameters():
    core = gtrxl(8, dtype=jnp.bfloat16, **SIZES)
    inputs, resets = sequence(11)
    params = jax.tree.map(lambda leaf: 0.5 * leaf, PARAMS["gru"])
    rough, memory = compiled(core)(params, inputs, resets, core.initial_memory(BATCH))
    exact, _ = RUN["gru"](params, inputs, resets, CORES["gru"].initial_memory(BATCH))
    assert rough.dtype == memory.states.dtype == jnp.bfloat16
    np.testing.assert_allclose(rough.astype(jnp.float32), exact, atol=0.06)


def test_sizes_that_mean_nothing_are_refused_by_name():
    for options, message in (
        ({"memory_length": 0}, "memory_length is 0"),
        ({"num_heads": 3}, "no multiple of num_heads 3"),
    ):
        with pytest.raises(ValueError, match=message):
            gtrxl(8, **options)


def original_block(torch, p, stream, memory, span):
    """A decoder layer of Dai et al. 2019 in torch: attention with its shift, sum, norm; position-wise, sum, norm.

    Written from the paper's appendix B: scores against all relative positions at once, shifted row by row.
    """

    def t(leaf):
        return torch.tensor(np.asarray(leaf))

    batch, steps, width = stream.shape
    a, heads = p["attention"], p["attention"]["content_bias"].shape[0]
    dim = width // heads
    context = torch.cat([memory, stream], dim=1)
    length = context.shape[1]
    q = (stream @ t(a["query"]).flatten(1)).view(batch, steps, heads, dim)
    k = (context @ t(a["key"]).flatten(1)).view(batch, length, heads, dim)
    v = (context @ t(a["value"]).flatten(1)).view(batch, length, heads, dim)
    # Position k counts down from the oldest step, at distance length - 1, to the query's own, at 0.
    r = t(sinusoids(jnp.arange(length - 1, -1, -1.0), width)) @ t(a["relative"]).flatten(1)
    content = torch.einsum("bihd,bjhd->bhij", q + t(a["content_bias"]), k)
    position = torch.einsum("bihd,jhd->bhij", q + t(a["distance_bias"]), r.view(length, heads, dim))
    padded = torch.cat([position.new_zeros(batch, heads, steps, 1), position], dim=-1)
    position = padded.view(batch, heads, length + 1, steps)[:, :, 1:].view_as(position)
    everything, remembered = torch.ones(steps, length), length - steps
    hidden = everything.triu(remembered + 1) + everything.tril(remembered - span - 1)
    scores = ((content + position) / dim**0.5).masked_fill(hidden.bool(), float("-inf"))
    attended = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).reshape(batch, steps, width)

    def norm(x, name):
        return torch.nn.functional.layer_norm(x, (width,), t(p[name]["scale"]), t(p[name]["bias"]), 1e-5)

    stream = norm(stream + attended @ t(a["output"]).flatten(0, 1), "attention_norm")
    hidden = (stream @ t(p["mlp_up"]["kernel"]) + t(p["mlp_up"]["bias"])).relu()
    return norm(stream + hidden @ t(p["mlp_down"]["kernel"]) + t(p["mlp_down"]["bias"]), "mlp_norm")


def test_trxl_is_the_original_transformer_xl_layer_by_layer():
    torch = pytest.importorskip("torch")
    past, resets = sequence(12)
    _, memory = RUN["trxl"](PARAMS["trxl"], past, resets, CORES["trxl"].initial_memory(BATCH))
    inputs, _ = sequence(13)
    ours, _ = RUN["trxl"](PARAMS["trxl"], inputs, resets, memory)

    stream = torch.tensor(np.asarray(inputs))
    for number in range(SIZES["num_layers"]):
        # Slots 0 ... 4 hold the five steps, of which the last three are remembered.
        recalled = torch.tensor(np.asarray(memory.states[:, number, 2:5]))
        stream = original_block(torch, PARAMS["trxl"][f"blocks_{number}"], stream, recalled, SIZES["memory_length"])
    np.testing.assert_allclose(ours, stream.numpy(), rtol=1e-4, atol=1e-5)


def test_every_core_of_the_table_has_its_own_parameters():
    assert isinstance(CORES["trxl"].gate(), Residual)
    gates = {name: PARAMS[name]["blocks_0"].get("mlp_gate", {}) for name in CORES}
    biases = {name for name in CORES if "bias" in gates[name]}
    assert biases == {"output", "highway", "sigmoid_tanh", "gru"}
