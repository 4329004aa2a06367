"""Generation: greedy and sampled tokens, their log-probabilities, ends, sharing of prompts, independence of layout."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import NamedSharding, PartitionSpec

from gempi_jax.llm.generate import generate
from gempi_jax.llm.hf import load_pretrained
from gempi_jax.llm.scoring import score
from gempi_jax.llm.stops import find_sequences
from gempi_jax.models.cache import Prefix
from gempi_jax.models.config import DecoderConfig
from gempi_jax.models.decoder import Decoder

CONFIG = DecoderConfig(
    vocab_size=19,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    initializer_range=0.4,
)
GROUPS, SAMPLES, WIDTH, LENGTH, EOS = 8, 3, 7, 6, (1, 2, 5, 6, 11)
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""Compiles in half the time programs that run once."""
OPTIONS = {"max_new_tokens": LENGTH, "temperature": 0.7, "top_p": 0.9, "eos_id": EOS}
LENGTHS = np.array([7, 3, 1, 5, 7, 2, 4, 6])
KEY = jax.random.key(10)


@pytest.fixture(scope="module")
def model():
    return Decoder(CONFIG)


@pytest.fixture(scope="module")
def params(model, random_params):
    return random_params(model, scale=0.4)


@pytest.fixture(scope="module")
def prompts():
    return jax.random.randint(jax.random.key(1), (GROUPS, WIDTH), 0, CONFIG.vocab_size)


@pytest.fixture(scope="module")
def sample(model):
    """One compiled sampler for all tests that can share it."""
    return quick_jit(functools.partial(generate, model, num_samples=SAMPLES, **OPTIONS))


@pytest.fixture(scope="module")
def completions(sample, params, prompts):
    return sample(params, prompts, LENGTHS, KEY)


class Chain:
    """A Markov chain in place of a decoder: the logits of the next token are a row of a table."""

    config = CONFIG
    dtype = jnp.float32

    def __init__(self, count=lambda shape: None):
        self.count = count

    def apply(self, variables, *args, method, **_):
        table = variables["params"]
        if method == "prefill":
            return table[args[0]], Prefix((), args[1])
        if method == "decode":
            jax.debug.callback(functools.partial(self.count, args[0].shape))
            return table[args[0]], args[2]
        return args[0]


def chain_table(arrows, size=6):
    """Logits that make each token follow its predecessor with certainty."""
    table = np.full((size, size), -1e4, np.float32)
    for source, target in arrows.items():
        table[source, target] = 0.0
    return jnp.asarray(table)


def follow(table, prompts, count=lambda shape: None, **options):
    """Completions of one-token prompts under a chain."""
    options = {"num_samples": 2, "max_new_tokens": 5, "eos_id": 5} | options
    run = quick_jit(functools.partial(generate, Chain(count), **options))
    prompts = jnp.asarray(prompts)[:, None]
    return jax.block_until_ready(run(table, prompts, jnp.ones(len(prompts), jnp.int32), jax.random.key(0)))


def test_greedy_tokens_are_the_argmax_of_the_full_forward_pass(model, params, prompts):
    run = quick_jit(
        functools.partial(generate, model, num_samples=1, max_new_tokens=LENGTH, temperature=0.0, eos_id=EOS)
    )
    got = run(params, prompts, LENGTHS, jax.random.key(0))
    forward = quick_jit(lambda tokens: model.apply({"params": params}, tokens))
    for group, length in enumerate(LENGTHS):
        tokens = np.zeros((1, WIDTH + LENGTH), np.int32)
        tokens[0, :length] = prompts[group, :length]
        expected = []
        while len(expected) < LENGTH and not set(EOS) & set(expected):
            expected.append(int(forward(tokens)[0, length + len(expected) - 1].argmax()))
            tokens[0, length + len(expected) - 1] = expected[-1]
        assert got.lengths[group, 0] == len(expected)
        np.testing.assert_array_equal(got.tokens[group, 0, : len(expected)], expected)
    np.testing.assert_array_equal(got.sampler_log_probs, 0.0)


def test_model_log_probs_are_those_of_scoring(model, params, prompts, completions):
    scores = quick_jit(functools.partial(score, model))(params, prompts, LENGTHS, completions.tokens, completions.mask)
    np.testing.assert_allclose(completions.model_log_probs, scores.log_probs, atol=1e-5)
    assert (completions.sampler_log_probs != completions.model_log_probs).any()


def test_after_the_end_there_is_padding_without_log_probs(completions):
    mask = np.asarray(completions.mask)
    assert 0 < mask.sum() < mask.size
    for values in (completions.tokens, completions.sampler_log_probs, completions.model_log_probs):
        np.testing.assert_array_equal(np.asarray(values)[~mask], 0)
    last = np.take_along_axis(np.asarray(completions.tokens), np.asarray(completions.lengths)[..., None] - 1, -1)
    ended = np.asarray(completions.lengths) < LENGTH
    assert set(last[..., 0][ended].tolist()) <= set(EOS)
    assert not set(np.asarray(completions.tokens)[..., :-1][mask[..., 1:]].tolist()) & set(EOS)


def test_a_sharded_batch_gets_the_same_tokens(sample, params, prompts, completions):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    replicated = NamedSharding(mesh, PartitionSpec())
    args = jax.device_put((prompts, jnp.asarray(LENGTHS)), rows)
    got = sample(jax.device_put(params, replicated), *args, jax.device_put(KEY, replicated))
    np.testing.assert_array_equal(got.tokens, completions.tokens)
    np.testing.assert_array_equal(got.lengths, completions.lengths)
    np.testing.assert_allclose(got.sampler_log_probs, completions.sampler_log_probs, atol=1e-5)


def test_tokens_follow_their_group_id_not_their_row(sample, params, prompts, completions):
    order = np.array([3, 0, 7, 1, 6, 2, 5, 4])
    got = sample(params, prompts[order], LENGTHS[order], KEY, group_ids=jnp.asarray(order))
    np.testing.assert_array_equal(got.tokens, completions.tokens[order])


def test_more_samples_and_no_padding_leave_the_others_alone(model, params, prompts, completions):
    group = 3
    run = quick_jit(functools.partial(generate, model, num_samples=SAMPLES + 2, **OPTIONS))
    width = LENGTHS[group]
    got = run(
        params,
        prompts[group : group + 1, :width],
        LENGTHS[group, None],
        KEY,
        group_ids=jnp.array([group]),
    )
    np.testing.assert_array_equal(got.tokens[0, :SAMPLES], completions.tokens[group])
    np.testing.assert_allclose(got.model_log_probs[0, :SAMPLES], completions.model_log_probs[group], atol=1e-5)
    assert (got.tokens[0, SAMPLES:] != completions.tokens[group, :2]).any()


def test_chunks_of_prompts_and_smaller_batches_leave_the_samples_alone(model, params, prompts, completions):
    # 24 sequences, of which those alive go on in batches of 12 and then of 8, each for at least one step.
    alive = [(np.asarray(completions.lengths) > step).sum() for step in range(1, LENGTH)]
    assert 0 < alive[-1] <= 8 < alive[-2] <= 12 < alive[0]
    options = OPTIONS | {"num_samples": SAMPLES, "prefill_chunk": 3, "shrink": (2, 3)}
    got = quick_jit(functools.partial(generate, model, **options))(params, prompts, LENGTHS, KEY)
    np.testing.assert_array_equal(got.tokens, completions.tokens)
    np.testing.assert_array_equal(got.lengths, completions.lengths)
    chex.assert_trees_all_close(got[2:], completions[2:], atol=1e-5)


def test_another_key_draws_other_tokens(sample, params, prompts, completions):
    assert (sample(params, prompts, LENGTHS, jax.random.key(6)).tokens != completions.tokens).any()


def test_what_stands_beyond_a_prompt_changes_nothing(sample, params, prompts, completions):
    beyond = np.arange(WIDTH) >= LENGTHS[:, None]
    got = sample(params, jnp.where(beyond, 11, prompts), LENGTHS, KEY)
    chex.assert_trees_all_equal(got, completions)


def test_prompts_are_not_multiplied_by_their_samples(model, params, prompts):
    def shapes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (out.aval.shape for out in equation.outvars)
            for inner in jaxprs_in_params(equation.params):
                yield from shapes(inner)

    run = functools.partial(generate, model, num_samples=5, max_new_tokens=2, eos_id=EOS)
    width = 29  # a prime, to find prompt axes by
    wide = jnp.zeros((2, width), jnp.int32)
    jaxpr = jax.make_jaxpr(run)(params, wide, jnp.full((2,), width), jax.random.key(0)).jaxpr
    both = [np.prod(shape) for shape in shapes(jaxpr) if width in shape and 5 in shape]
    # Attention weights are there, keys of the prompts copied to each of the 5 samples are not.
    assert max(both) == 2 * 5 * width * CONFIG.num_heads
    assert CONFIG.num_heads < CONFIG.num_kv_heads * CONFIG.head_dim
    prefilled = [shape for shape in shapes(jaxpr) if width in shape and shape[-1] == CONFIG.hidden_size]
    assert prefilled
    assert all(np.prod(shape) == 2 * width * CONFIG.hidden_size for shape in prefilled)


def test_one_trace_per_shape():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(table, prompts, key):
        lengths = jnp.ones(len(prompts), jnp.int32)
        return generate(Chain(), table, prompts, lengths, key, num_samples=1, max_new_tokens=2, eos_id=EOS)

    for seed in range(3):
        run(jnp.zeros((6, 6)), jnp.full((2, 1), seed), jax.random.key(seed))


def test_the_loop_stops_with_the_last_sequence():
    calls = []
    table = chain_table({0: 1, 1: 5, 3: 5, 5: 5})
    got = follow(table, [0, 3], count=calls.append, max_new_tokens=50)
    jax.effects_barrier()
    # 0 -> 1, 5: the first token comes from the prefill, the second from one decoding step.
    assert len(calls) == 1
    np.testing.assert_array_equal(got.lengths, [[2, 2], [1, 1]])


def test_sequences_that_have_ended_are_dropped():
    # Prompts 0 ... 3 with two samples each run for 5, 4, 3 and 2 tokens.
    table, calls = chain_table({0: 1, 1: 2, 2: 3, 3: 4, 4: 5}), []
    got = follow(table, [0, 1, 2, 3], count=calls.append, max_new_tokens=9, shrink=(2, 4))
    jax.effects_barrier()
    np.testing.assert_array_equal(got.lengths, np.array([[5, 4, 3, 2]] * 2).T)
    np.testing.assert_array_equal(got.tokens[1, :, :4], [[2, 3, 4, 5]] * 2)
    # 8 sequences until the third token, when 4 are alive, then 4 until 2 are, and those to their end.
    assert calls == [(4, 2), (4, 2), (4, 1), (2, 1)]


def test_the_end_token_counts_and_may_be_the_padding():
    table = chain_table({0: 1, 1: 2, 2: 3, 3: 4, 4: 5, 5: 0})
    got = follow(table, [0, 3, 2], pad_id=5)
    np.testing.assert_array_equal(got.lengths[:, 0], [5, 2, 3])
    np.testing.assert_array_equal(got.tokens[:, 0], [[1, 2, 3, 4, 5], [4, 5, 5, 5, 5], [3, 4, 5, 5, 5]])
    # Without an end the budget cuts.
    got = follow(table, [0], eos_id=0, max_new_tokens=3)
    np.testing.assert_array_equal(got.lengths, [[3, 3]])


def test_several_end_tokens():
    table = chain_table({0: 1, 1: 2, 2: 3, 3: 4, 4: 5, 5: 0})
    got = follow(table, [0, 2], eos_id=(5, 3))
    np.testing.assert_array_equal(got.tokens[:, 0], [[1, 2, 3, 0, 0], [3, 0, 0, 0, 0]])


def test_stops_end_where_they_are_complete_and_never_begin_in_the_prompt():
    table, each = chain_table({0: 1, 1: 2, 2: 3, 3: 4, 4: 5, 5: 0}), [(token,) for token in range(6)]
    stops = find_sequences(each, ((2, 3), (4, 5, 0)))
    got = follow(table, [0, 2, 1], stops=stops)
    np.testing.assert_array_equal(got.tokens[:, 0], [[1, 2, 3, 0, 0], [3, 4, 5, 0, 0], [2, 3, 0, 0, 0]])
    got = follow(table, [2], eos_id=9, stops=stops)
    np.testing.assert_array_equal(got.lengths, [[4, 4]])


def test_a_string_ends_within_the_token_that_completes_it():
    # What the tokens spell: the string lies across two of them, or inside one.
    spelt = [b"x", b"a", b"b\n", b"\nc", b"d", b".\n\ne"]
    stops = find_sequences(spelt, [b"\n\n"])
    got = follow(chain_table({0: 1, 1: 2, 2: 3, 3: 4, 4: 5}), [0, 3], eos_id=9, stops=stops)
    np.testing.assert_array_equal(got.tokens[:, 0], [[1, 2, 3, 0, 0], [4, 5, 0, 0, 0]])
    # Sequences that go on in smaller batches know what they have read.
    table = chain_table({0: 1, 1: 2, 2: 3, 3: 4, 4: 4})
    smaller = follow(
        table, [0, 1, 2, 3], eos_id=3, stops=find_sequences([b"", b"", b"", b"", b"e"], [b"eee"]), shrink=(2,)
    )
    np.testing.assert_array_equal(smaller.lengths[:, 0], [3, 2, 1, 3])


def test_sampled_first_tokens_have_the_frequencies_of_the_model(model, params, prompts):
    run = quick_jit(functools.partial(generate, model, num_samples=4000, max_new_tokens=1, eos_id=EOS))
    got = run(params, prompts[:1], LENGTHS[:1], jax.random.key(2))
    logits = model.apply({"params": params}, prompts[:1])[0, LENGTHS[0] - 1]
    expected = 4000 * np.asarray(jax.nn.softmax(logits), np.float64)
    observed = np.bincount(np.asarray(got.tokens).ravel(), minlength=CONFIG.vocab_size)
    common = expected > 5
    statistic = ((observed - expected) ** 2 / expected)[common].sum()
    # The 0.9999 quantile of chi-square is below d + 4 sqrt(2 d) + 11 for these d.
    degrees = common.sum()
    assert statistic < degrees + 4 * np.sqrt(2 * degrees) + 11


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 0.01}, {"min_p": 1.0}])
def test_truncation_to_one_token_leaves_the_most_probable(options):
    table = jax.random.normal(jax.random.key(3), (6, 6))
    got = follow(table, [0, 3], eos_id=9, num_samples=8, max_new_tokens=2, **options)
    first = np.asarray(table)[[0, 3]].argmax(-1)
    second = np.asarray(table)[first].argmax(-1)
    np.testing.assert_array_equal(got.tokens, np.broadcast_to(np.stack([first, second], -1)[:, None], (2, 8, 2)))
    # What sampled had no choice; the model had.
    np.testing.assert_allclose(got.sampler_log_probs, 0.0, atol=1e-6)
    expected = jax.nn.log_softmax(table)[jnp.array([0, 3]), first]
    np.testing.assert_allclose(got.model_log_probs[:, 0, 0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"min_p": 0.0}, "min_p is 0.0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"shrink": (4, 2)}, r"shrink is \(4, 2\); give growing"),
        ({"shrink": (1,)}, "give growing whole numbers above 1"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        follow(chain_table({0: 1}), [0], **options)


def test_greedy_stories_are_those_of_transformers_in_pytorch(shared_data):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = shared_data / "stories260k"
    ours = load_pretrained(str(folder))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generator = np.random.default_rng(0)
    # Two lengths of prompts, padded to one width here and read one by one there.
    lengths = np.array([5, 9])
    prompts = generator.integers(3, ours.model.config.vocab_size, (2, 9)).astype(np.int32)
    prompts[:, 0] = 1
    run = quick_jit(
        functools.partial(generate, ours.model, num_samples=1, max_new_tokens=40, temperature=0.0, eos_id=2)
    )
    got = run(ours.params, prompts, lengths, jax.random.key(0))
    for row, length in enumerate(lengths):
        with torch.no_grad():
            expected = theirs.generate(
                torch.tensor(prompts[row : row + 1, :length], dtype=torch.long),
                attention_mask=torch.ones(1, int(length), dtype=torch.long),
                do_sample=False,
                max_new_tokens=40,
                eos_token_id=2,
                pad_token_id=0,
            )[0, length:].numpy()
        np.testing.assert_array_equal(got.tokens[row, 0, : got.lengths[row, 0]], expected)
