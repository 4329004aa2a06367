"""Torsos: each step by itself, sizes as published, and what of the step before is an input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.models import CNNTorso, MLPTorso, ResNetTorso, with_previous

PICTURES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 9, 9, 2)), jnp.float32)
TORSOS = {"mlp": MLPTorso((5,)), "cnn": CNNTorso((4,), widths=(5,)), "resnet": ResNetTorso((2, 3), (5,))}


@pytest.mark.parametrize("name", TORSOS)
def test_features_of_a_step_depend_on_that_step_alone(name):
    torso = TORSOS[name]
    params = jax.jit(torso.init)(jax.random.key(0), PICTURES)
    run = jax.jit(torso.apply)
    features = run(params, PICTURES)
    assert features.shape == (2, 3, 5)
    changed = run(params, PICTURES.at[0, 1].multiply(2.0))
    same = np.isclose(changed, features, atol=1e-6).all(-1)
    np.testing.assert_array_equal(same, [[True, False, True], [True, True, True]])


def test_the_resnet_has_the_layers_of_the_paper():
    # Sections of 16, 32, 32 channels: 1 + 2 * 2 convolutions of 3 x 3 each; 72 x 96 is pooled to 9 x 12.
    shapes = jax.eval_shape(ResNetTorso().init, jax.random.key(0), jnp.zeros((1, 1, 72, 96, 3)))["params"]
    kernels = [leaf["kernel"].shape for name, leaf in shapes.items() if name.startswith("sections")]
    assert len(kernels) == 15
    assert {kernel[-1] for kernel in kernels} == {16, 32}
    assert shapes["layers_0"]["kernel"].shape == (9 * 12 * 32, 256)


def test_bfloat16_keeps_parameters_in_float32():
    torso = ResNetTorso((2,), (5,), dtype=jnp.bfloat16)
    features, params = jax.jit(lambda key: torso.init_with_output(key, PICTURES))(jax.random.key(0))
    assert features.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}


def test_the_step_before_is_an_input_but_not_across_the_beginning_of_an_episode():
    features = jnp.ones((1, 2, 1))
    resets = jnp.array([[True, False]])
    inputs = with_previous(features, jnp.array([[2, 1]]), jnp.array([[5.0, 7.0]]), resets, num_actions=3)
    np.testing.assert_array_equal(inputs, [[[1, 0, 0, 0, 0], [1, 0, 1, 0, 7]]])
    vectors = with_previous(features, jnp.array([[[0.5], [0.25]]]), jnp.array([[5.0, 7.0]]), resets)
    np.testing.assert_array_equal(vectors, [[[1, 0, 0], [1, 0.25, 7]]])


def test_convolutions_of_different_numbers_are_refused():
    with pytest.raises(ValueError, match="give one of each"):
        CNNTorso(channels=(8, 8))
