"""Policies and data of other kinds through the same runner: a Flax class of transformers, and whole conversations."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.llm import arithmetic, gsm8k
from gempi_jax.llm import Alphabet, save_pretrained, synthetic, train_tokenizer
from gempi_jax.llm.hf import Pretrained
from gempi_jax.models import Decoder, DecoderConfig
from gempi_jax.report import write_report
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.llm import run

pytestmark = pytest.mark.slow
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def start(config, workdir):
    return run(settings_from_config(config), workdir, config.to_dict())


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_flax_class_is_fine_tuned_and_saved_as_itself(tmp_path):
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "FlaxPreTrainedModel"):
        pytest.skip("this version of transformers has no Flax classes")
    rows = synthetic.arithmetic_rows("demonstrations", 64, 0)
    texts = [row["prompt"] + row["completion"] for row in rows]
    tokenizer = train_tokenizer(texts, 400, alphabet=Alphabet.SEEN)
    settings = transformers.GPTNeoConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        attention_types=[[["global"], 1]],
        max_position_embeddings=64,
    )
    config = arithmetic.get_config("vmpo,quick")
    config.unlock()
    config.phases = ("rl",)
    # A random model solves no problem: rewards that are all 0 would move nothing.
    config.rewards = {"no_repetition": 1.0}
    config.model.update({"path": str(tmp_path / "base"), "loader": "flax", "dropout": 0.0})
    config.rl.update({"num_iterations": 1, "max_completion_length": 4, "updates_per_epoch": 1, "num_generations": 2})
    config.rl.optimizer.warmup_steps = 0
    config.eval.num_samples = 2
    with jax.numpy_rank_promotion("allow"):  # their classes add biases of lower rank
        model = transformers.FlaxGPTNeoForCausalLM(settings, seed=0, input_shape=(1, 2))
        model.save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        export = start(config, tmp_path / "run")
        again = transformers.FlaxAutoModelForCausalLM.from_pretrained(export)
    assert type(again) is transformers.FlaxGPTNeoForCausalLM
    assert transformers.AutoTokenizer.from_pretrained(export).get_vocab() == tokenizer.get_vocab()
    last = rows_of(tmp_path / "run")[-1]
    assert last["sampler_gap"] < 1e-4
    assert np.isfinite(last["loss"])
    moved = jax.tree.map(lambda new, old: bool(np.any(np.asarray(new) != np.asarray(old))), again.params, model.params)
    assert any(jax.tree.leaves(moved))


def test_sft_on_whole_conversations(tmp_path):
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{n} and 1"},
                {"role": "assistant", "content": f"#### {n + 1}"},
                {"role": "user", "content": "and 1 more"},
                {"role": "assistant", "content": f"#### {n + 2}"},
            ],
            "answer": str(n + 2),
        }
        for n in range(10, 42)
    ]
    texts = ["".join(f"[{m['role']}]{m['content']}" for m in row["messages"]) for row in rows]
    tokenizer = train_tokenizer(texts, 400, largest_number=50)
    tokenizer.chat_template = TEMPLATE
    decoder = Decoder(
        DecoderConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_layers=1,
            num_heads=2,
            max_positions=128,
        )
    )
    params = jax.jit(decoder.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    save_pretrained(tmp_path / "base", Pretrained(decoder, params, tokenizer))
    for name, part in (("train", rows[:24]), ("test", rows[24:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    config = gsm8k.get_config("quick")
    config.unlock()
    config.phases = ("sft",)
    config.model.path = str(tmp_path / "base")
    config.data.update({"train_path": str(tmp_path / "train.jsonl"), "heldout_path": str(tmp_path / "test.jsonl")})
    config.data.columns = {}
    config.sft.update({"num_iterations": 12, "max_completion_length": 48, "num_microbatches": 1, "eval_every": 12})
    config.sft.optimizer.update({"learning_rate": 0.01, "schedule": "constant"})
    start(config, tmp_path / "run")
    metrics = rows_of(tmp_path / "run")
    # Read and encoded batch by batch, the same numbers.
    config.data.stream = True
    start(config, tmp_path / "streamed")
    assert [row["loss"] for row in rows_of(tmp_path / "streamed")[1:]] == [row["loss"] for row in metrics[1:]]
    # All tokens that the model read: both roles' turns, of 24 rows in as many epochs as 12 batches are.
    texts = [tokenizer.apply_chat_template(row["messages"], tokenize=False) for row in rows[:24]]
    # But for the line's end behind the last turn, which nobody has to write.
    num_tokens = sum(len(tokenizer.encode(text[:-1], add_special_tokens=False)) for text in texts)
    assert metrics[-1]["num_tokens"] == 12 * config.sft.batch_prompts // 24 * num_tokens
    losses = [row["loss"] for row in metrics[1:]]
    assert losses[-1] < losses[0] / 2
    samples = [json.loads(line) for line in (tmp_path / "run/samples.jsonl").read_text().splitlines()]
    # Asked for the last turn, with all before it.
    assert samples[0]["prompt"] == rows[24]["messages"][:3]
    assert "and 1 more" in write_report(tmp_path / "run").read_text()
