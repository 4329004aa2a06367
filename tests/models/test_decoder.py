"""The decoder: every pass gives the numbers of the plain forward pass, and looks only where it may."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.models import Band, Decoder, DecoderConfig, HeadNorm, Layer, Learned, Placement, Rotary, init_cache

SMALL = {
    "vocab_size": 19,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_layers": 2,
    "num_heads": 4,
    "max_positions": 32,
}
LLAMA = DecoderConfig(**SMALL, num_kv_heads=2, tie_embeddings=True, initializer_range=0.3)
GPT2 = DecoderConfig(
    **SMALL,
    norm=Layer(),
    activation=jax.nn.gelu,
    gated=False,
    qkv_bias=True,
    output_bias=True,
    mlp_bias=True,
    positions=Learned(),
    initializer_range=0.3,
)
ODD = DecoderConfig(
    **SMALL,
    num_kv_heads=1,
    head_dim=6,
    placement=Placement.SANDWICH,
    head_norm=HeadNorm.PER_HEAD,
    bands=(Band(window=3), Band(positions=Rotary(theta=100.0, fraction=0.67))),
    query_scale=0.3,
    attention_softcap=2.0,
    logits_softcap=3.0,
    embedding_scale=4.0,
    initializer_range=0.3,
)
CONFIGS = {"llama": LLAMA, "gpt2": GPT2, "odd": ODD}

G, K, P, C = 3, 2, 5, 4
LENGTHS = jnp.array([5, 2, 1])


@pytest.fixture(scope="module", params=CONFIGS)
def case(request, random_params):
    """A model, its parameters, prompts of ragged lengths, completions, and the full pass over both."""
    model = Decoder(CONFIGS[request.param])
    prompts = jax.random.randint(jax.random.key(1), (G, P), 0, 19)
    completions = jax.random.randint(jax.random.key(2), (G, K, C), 0, 19)
    params = random_params(model)
    apply = jax.jit(lambda tokens: model.apply({"params": params}, tokens))
    full = np.zeros((G, K, C, 19), np.float32)
    for g, length in enumerate(LENGTHS.tolist()):
        for k in range(K):
            row = np.zeros((1, P + C), np.int32)
            row[0, :length], row[0, length : length + C] = prompts[g, :length], completions[g, k]
            full[g, k] = apply(jnp.asarray(row))[0, length : length + C]
    return model, params, prompts, completions, full


def test_prefill_and_extend_equal_the_full_pass(case):
    model, params, prompts, completions, full = case

    @jax.jit
    def run(prompts, completions):
        hidden, prefix = model.apply({"params": params}, prompts, LENGTHS, method="prefill")
        extended = model.apply({"params": params}, completions, prefix, method="extend")
        return hidden, model.apply({"params": params}, extended, method="logits")

    hidden, logits = run(prompts, completions)
    assert hidden.shape == (G, P, 16)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, full, rtol=2e-5, atol=2e-5)


def test_padding_of_the_prompt_changes_nothing(case):
    model, params, prompts, completions, _ = case

    @jax.jit
    def run(prompts):
        _, prefix = model.apply({"params": params}, prompts, LENGTHS, method="prefill")
        return model.apply({"params": params}, completions, prefix, method="extend")

    padded = jnp.arange(P)[None] >= LENGTHS[:, None]
    np.testing.assert_array_equal(run(prompts), run(jnp.where(padded, 18 - prompts, prompts)))


def test_decode_equals_the_full_pass(case):
    model, params, prompts, completions, full = case
    _, prefix = model.apply({"params": params}, prompts, LENGTHS, method="prefill")

    @jax.jit
    def step(cache, index):
        hidden, cache = model.apply({"params": params}, completions[:, :, index], prefix, cache, index, method="decode")
        return cache, model.apply({"params": params}, hidden, method="logits")

    _, logits = jax.lax.scan(step, init_cache(model.config, G, K, C + 1), jnp.arange(C))
    np.testing.assert_allclose(jnp.moveaxis(logits, 0, 2), full, rtol=2e-5, atol=2e-5)


def test_a_window_is_all_that_its_layer_keeps(random_params):
    # A window of one token, one that the prompts fill and completions wrap around, one wider than both.
    windows, steps = (1, 3, 40), 8
    config = dataclasses.replace(LLAMA, num_layers=3, bands=tuple(Band(window) for window in windows))
    model, tokens = Decoder(config), jax.random.randint(jax.random.key(1), (G, P + steps), 0, 19)
    params = random_params(model)
    cache = init_cache(config, G, 1, steps)
    assert [layer.keys.shape[-2] for layer in cache] == [1, 3, steps]

    @jax.jit
    def run(tokens):
        """The states of the tokens behind each prompt, from the full pass and from decoding."""
        hidden, _ = model.apply({"params": params}, tokens, jnp.full((G,), P + steps), method="prefill")
        _, prefix = model.apply({"params": params}, tokens[:, :P], LENGTHS, method="prefill")
        places = LENGTHS[:, None] + jnp.arange(steps)[None]
        continued = jnp.take_along_axis(tokens, places, axis=1)

        def step(cache, index):
            token = continued[:, None, index]
            hidden, cache = model.apply({"params": params}, token, prefix, cache, index, method="decode")
            return cache, hidden[:, 0]

        apart = jax.lax.scan(step, cache, jnp.arange(steps))[1]
        return jnp.take_along_axis(hidden, places[..., None], axis=1), jnp.moveaxis(apart, 0, 1), prefix

    together, apart, prefix = run(tokens)
    assert [layer.keys.shape[-2] for layer in prefix.layers] == [1, 3, P]
    np.testing.assert_allclose(apart, together, rtol=2e-5, atol=2e-5)


def reach(model, params, length):
    """Which tokens' embeddings (one row of the table each) the hidden state of each position depends on."""

    def hidden(embedding):
        tokens, table = jnp.arange(length)[None], params | {"embedding": embedding}
        return model.apply({"params": table}, tokens, jnp.array([length]), method="prefill")[0][0]

    influence = jax.jit(jax.jacobian(hidden))(params["embedding"])
    return np.asarray(jnp.abs(influence).sum((1, 3))[:, :length] > 0).tolist()


def test_gradients_show_causality(case):
    model, params, *_ = case
    assert reach(model, params, P) == np.tril(np.ones((P, P), bool)).tolist()


def test_window_limits_what_is_seen(random_params):
    model = Decoder(DecoderConfig(**SMALL, bands=(Band(window=2), Band(window=2))))
    params = random_params(model)
    # Two layers of window 2 reach back two positions.
    ones = np.ones((6, 6), bool)
    assert reach(model, params, 6) == (np.tril(ones) & ~np.tril(ones, -3)).tolist()


def test_extend_is_differentiable_through_the_prefix(case):
    model, params, prompts, completions, _ = case

    def loss(params, prompts, lengths, joined):
        if joined:
            rows = jnp.concatenate([prompts, completions[0, 0]])
            return model.apply({"params": params}, rows)[P - 1 :].sum()
        hidden, prefix = model.apply({"params": params}, prompts[None], lengths, method="prefill")
        more = model.apply({"params": params}, completions[:1, :1], prefix, method="extend")
        both = jnp.concatenate([hidden[0, P - 1 :], more[0, 0]])
        return model.apply({"params": params}, both, method="logits").sum()

    gradient = jax.jit(jax.grad(loss), static_argnums=3)
    apart, whole = (gradient(params, prompts[0], jnp.array([P]), joined) for joined in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4), apart, whole)


def test_leading_axes_are_free(case):
    model, params, prompts, _, _ = case
    shapes = [
        jax.eval_shape(lambda p, t: model.apply({"params": p}, t), params, t).shape for t in (prompts[0], prompts)
    ]
    assert shapes == [(P, 19), (G, P, 19)]
    apply = jax.jit(lambda tokens: model.apply({"params": params}, tokens))
    flat, deep = apply(prompts), apply(prompts[:, None])
    np.testing.assert_allclose(deep[:, 0], flat, rtol=1e-5, atol=1e-5)


def test_bfloat16_activations_give_float32_logits():
    model = Decoder(LLAMA, dtype=jnp.bfloat16)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    tokens = jnp.arange(4)[None]
    logits, exact = jax.jit(lambda p: [m.apply({"params": p}, tokens) for m in (model, Decoder(LLAMA))])(params)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, exact, atol=0.05 * float(jnp.abs(exact).max()))


def test_dropout_is_active_only_when_asked_for(random_params):
    config = dataclasses.replace(LLAMA, embedding_dropout=0.2, residual_dropout=0.2, attention_dropout=0.2)
    model, tokens = Decoder(config), jnp.arange(8)[None]
    params = random_params(model)
    calm, plain = jax.jit(lambda p: [m.apply({"params": p}, tokens) for m in (model, Decoder(LLAMA))])(params)
    np.testing.assert_array_equal(calm, plain)
    noise = jax.jit(lambda key: model.apply({"params": params}, tokens, deterministic=False, rngs={"dropout": key}))
    first, again, other = (noise(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert not np.allclose(first, calm)


def test_residual_projections_start_smaller_with_depth():
    model = Decoder(DecoderConfig(vocab_size=8, hidden_size=64, intermediate_size=64, num_layers=2, num_heads=4))
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    layer = params["layers_1"]
    # 0.02 / sqrt(2 * 2) = 0.01
    assert float(layer["attention"]["o_proj"]["kernel"].std()) == pytest.approx(0.01, rel=0.05)
    assert float(layer["mlp"]["down_proj"]["kernel"].std()) == pytest.approx(0.01, rel=0.05)
    assert float(layer["attention"]["q_proj"]["kernel"].std()) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 0}, "num_heads is 0"),
        ({"num_kv_heads": 3}, "multiple of num_kv_heads"),
        ({"hidden_size": 18}, "state head_dim"),
        ({"bands": (Band(),)}, "1 entries for 2 layers"),
        ({"residual_dropout": 1.0}, r"residual_dropout is 1.0; it must be in \[0, 1\)"),
    ],
)
def test_impossible_configs_say_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        DecoderConfig(**{**SMALL, **changes})
