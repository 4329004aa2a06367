"""Gates by hand, from the formulas of Parisotto et al. 2019 and of the method document's appendix B."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.models import GRUGate, HighwayGate, InputGate, OutputGate, Residual, SigmoidTanhGate

X, Y = jnp.array([[1.0, -2.0]]), jnp.array([[0.5, 3.0]])
GATES = (Residual, InputGate, OutputGate, HighwayGate, SigmoidTanhGate, GRUGate)


def apply(gate, params):
    return np.asarray(gate().apply({"params": params}, X, Y))


def fresh(gate):
    return jax.jit(lambda key: gate().init(key, X, Y))(jax.random.key(0)).get("params", {})


def zeros(gate):
    """A fresh gate's parameters with all kernels at zero: what is left is the bias."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.zeros_like(leaf) if path[-1].key == "kernel" else leaf, fresh(gate)
    )


# sigma(1) = 0.731059, sigma(2) = 0.880797; W = 0 leaves sigma(0) = 1/2 where there is no bias.
AT_ZERO = {
    Residual: [1.0 + 0.5, -2.0 + 3.0],
    InputGate: [0.5 * 1.0 + 0.5, 0.5 * -2.0 + 3.0],
    OutputGate: [1.0 + 0.268941 * 0.5, -2.0 + 0.268941 * 3.0],
    HighwayGate: [0.731059 * 1.0 + 0.268941 * 0.5, 0.731059 * -2.0 + 0.268941 * 3.0],
    SigmoidTanhGate: [1.0, -2.0],
    GRUGate: [0.880797 * 1.0, 0.880797 * -2.0],
}


@pytest.mark.parametrize("gate", GATES)
def test_kernels_at_zero_show_the_bias_alone(gate):
    np.testing.assert_allclose(apply(gate, zeros(gate)), [AT_ZERO[gate]], rtol=1e-5)


@pytest.mark.parametrize("gate", GATES)
def test_biases_are_b_g_alone(gate):
    expected = {OutputGate: 1.0, HighwayGate: 1.0, SigmoidTanhGate: 1.0, GRUGate: 2.0}
    params = fresh(gate)
    vectors = {path: leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params) if leaf.ndim == 1}
    assert len(vectors) == (gate in expected)
    for leaf in vectors.values():
        np.testing.assert_array_equal(leaf, expected[gate])


def test_the_gru_gate_by_hand():
    # W_r = W_g = 1, W_z = 2 I, U_r = -1, U_z = 0.5 I, U_g = 3 I: each entry by itself.
    eye = jnp.eye(2)
    params = {
        "output": {"kernel": jnp.concatenate([eye, 2 * eye, eye], axis=1)},
        "stream": {"kernel": jnp.concatenate([-eye, 0.5 * eye], axis=1)},
        "candidate": {"kernel": 3 * eye},
        "bias": jnp.full(2, 2.0),
    }
    # Entry 1: x = 1, y = 0.5: r = sigma(0.5 - 1) = 0.377541, z = sigma(1 + 0.5 - 2) = 0.377541,
    #   h = tanh(0.5 + 3 * 0.377541) = tanh(1.632622) = 0.926436; 0.622459 + 0.377541 * 0.926436 = 0.972226.
    # Entry 2: x = -2, y = 3: r = sigma(5) = 0.993307, z = sigma(6 - 1 - 2) = 0.952574,
    #   h = tanh(3 - 6 * 0.993307) = tanh(-2.959843) = -0.994642; -2 * 0.047426 - 0.952574 * 0.994642 = -1.042322.
    np.testing.assert_allclose(apply(GRUGate, params), [[0.972226, -1.042322]], atol=2e-6)


def test_the_highway_and_the_sigmoid_tanh_gate_by_hand():
    eye = jnp.eye(2)
    # s = sigma(x + 1): sigma(2) = 0.880797, sigma(-1) = 0.268941; s x + (1 - s) y.
    highway = apply(HighwayGate, {"stream": {"kernel": eye}, "bias": jnp.ones(2)})
    np.testing.assert_allclose(highway, [[0.880797 + 0.119203 * 0.5, -2 * 0.268941 + 0.731059 * 3]], rtol=1e-5)
    # x + sigma(y - 1) tanh(2 y): sigma(-0.5) = 0.377541, tanh(1) = 0.761594; sigma(2) = 0.880797, tanh(6) = 0.999988.
    params = {"output": {"kernel": jnp.concatenate([eye, 2 * eye], axis=1)}, "bias": jnp.ones(2)}
    expected = [[1 + 0.377541 * 0.761594, -2 + 0.880797 * 0.999988]]
    np.testing.assert_allclose(apply(SigmoidTanhGate, params), expected, rtol=1e-5)


def test_the_input_and_the_output_gate_look_at_the_stream():
    eye = jnp.eye(2)
    # sigma(1) x + y, sigma(-2) x + y with sigma(-2) = 0.119203; x + sigma(x - 1) y with sigma(0), sigma(-3) = 0.047426.
    np.testing.assert_allclose(apply(InputGate, {"stream": {"kernel": eye}}), [[1.231059, 2.761594]], rtol=1e-5)
    output = apply(OutputGate, {"stream": {"kernel": eye}, "bias": jnp.ones(2)})
    np.testing.assert_allclose(output, [[1.25, -2 + 0.047426 * 3]], rtol=1e-5)
