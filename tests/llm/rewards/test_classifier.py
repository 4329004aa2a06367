"""Classifiers as rewards: the score of the right label, of any mix of lengths, against transformers' PyTorch class."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gempi_jax.llm import train_tokenizer
from gempi_jax.llm.rewards import RewardError, RewardSpec, compute_rewards
from gempi_jax.llm.rewards.classifier import completion_alone, log_prob, logit, prob, sequence_classifier

transformers = pytest.importorskip("transformers")
if not hasattr(transformers, "FlaxPreTrainedModel"):
    pytest.skip("this version of transformers has no Flax classes", allow_module_level=True)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "film", "was", "good", "bad", "long", "and"]
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
SETTINGS = {
    "Bert": SIZES | {"vocab_size": len(WORDS), "max_position_embeddings": 12, "initializer_range": 0.6},
    "Roberta": SIZES | {"vocab_size": 320, "max_position_embeddings": 16, "initializer_range": 0.6, "pad_token_id": 0},
}
LABELS = {"id2label": {0: "NEGATIVE", 1: "POSITIVE"}, "label2id": {"NEGATIVE": 0, "POSITIVE": 1}}
PROMPTS, COMPLETIONS = ["the film", "the film", "the"], [" was good", " was bad and long and bad", ""]


@pytest.fixture(autouse=True, scope="module")
def their_broadcasting():
    """The Flax classes add biases of lower rank."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A random model of each class, saved by the class itself, with a tokenizer."""
    made = {}
    for family, settings in SETTINGS.items():
        folder = made[family] = tmp_path_factory.mktemp(family)
        config = getattr(transformers, f"{family}Config")(**settings, **LABELS)
        model = getattr(transformers, f"Flax{family}ForSequenceClassification")(config, seed=0, input_shape=(1, 2))
        model.save_pretrained(folder)
        if family == "Bert":
            (folder / "vocab.txt").write_text("\n".join(WORDS))
            tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"))
        else:
            tokenizer = train_tokenizer(["the film was good, bad and long"], 320, largest_number=20)
        tokenizer.save_pretrained(folder)
    return made


@pytest.mark.parametrize("family", SETTINGS)
def test_scores_are_those_of_the_pytorch_class(folders, family, tmp_path):
    torch = pytest.importorskip("torch")
    config = transformers.AutoConfig.from_pretrained(folders[family])
    torch.manual_seed(0)
    theirs = getattr(transformers, f"{family}ForSequenceClassification")(config).eval()
    theirs.save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[family])
    tokenizer.save_pretrained(tmp_path)
    expected = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        inputs = tokenizer(prompt + completion, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            expected.append(theirs(**inputs).logits[0, 1].item())
    classifier = sequence_classifier(tmp_path, label="POSITIVE", compiled=jax.jit)
    np.testing.assert_allclose(classifier(PROMPTS, COMPLETIONS), expected, rtol=1e-4, atol=1e-5)
    assert np.std(expected) > 1e-3
    assert classifier.num_truncated == 0


def test_what_can_be_asked_of_the_logits_by_hand():
    logits = jnp.log(jnp.array([[1.0, 3.0]]))
    np.testing.assert_array_equal(logit(logits), logits)
    np.testing.assert_allclose(prob(logits), [[0.25, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(log_prob(logits), np.log([[0.25, 0.75]]), rtol=1e-6)
    # A single label is one class against none: sigmoid(log 3) = 3 / 4.
    np.testing.assert_allclose(prob(logits[:, 1:]), [[0.75]], rtol=1e-6)


def test_shapes_are_few_and_neither_rows_nor_padding_change_a_score(folders):
    shapes = []

    def compiled(function):
        def traced(params, tokens, mask):
            shapes.append(tokens.shape)
            return function(params, tokens, mask)

        return jax.jit(traced)

    classifier = sequence_classifier(folders["Bert"], label=1, compiled=compiled)
    together = classifier(PROMPTS, COMPLETIONS)
    apart = [classifier([prompt], [text])[0] for prompt, text in zip(PROMPTS, COMPLETIONS, strict=True)]
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-6)
    assert classifier([], []) == []
    # Eight rows at least, and no more columns than there are positions.
    assert shapes == [(8, 12)]


def test_a_long_text_keeps_its_end_and_is_counted(folders):
    classifier = sequence_classifier(folders["Bert"], label="POSITIVE", max_length=6, compiled=jax.jit)
    # [CLS], the last four words, [SEP].
    assert classifier(["the film was"], [" bad and long and good"]) == classifier([""], ["and long and good"])
    assert classifier.num_truncated == 1


def test_it_is_a_reward_and_may_read_the_completion_alone(folders):
    classifier = sequence_classifier(folders["Bert"], label="POSITIVE", text=completion_alone, compiled=jax.jit)
    result = compute_rewards([RewardSpec("classifier", classifier)], PROMPTS, COMPLETIONS, {"answer": [1, 2, 3]})
    assert result.total[2] == classifier(["anything"], [""])[0]
    chat = [{"role": "user", "content": "the film"}]
    assert classifier([chat], [" was good"])[0] == result.total[0]
    with pytest.raises(RewardError, match="cannot read a role list as the prompt"):
        sequence_classifier(folders["Bert"], label=0)([chat], ["good"])


def test_mistakes_are_named(folders, tmp_path):
    with pytest.raises(RewardError, match=r"nowhere holds no config.json"):
        sequence_classifier(tmp_path / "nowhere")
    for label, message in [(None, "needs a label"), ("NEUTRAL", "has no label 'NEUTRAL'"), (2, "has no label 2")]:
        with pytest.raises(RewardError, match=rf"{message}; it knows NEGATIVE, POSITIVE"):
            sequence_classifier(folders["Bert"], label=label)
    with pytest.raises(RewardError, match=r"max_length = 13; it has 12 positions"):
        sequence_classifier(folders["Bert"], label=0, max_length=13)
    folder = tmp_path / "copy"
    shutil.copytree(folders["Bert"], folder)
    config = json.loads((folder / "config.json").read_text())
    for changes, message in [
        ({"auto_map": {"AutoConfig": "evil.Config"}}, "run code that came with the checkpoint"),
        ({"hidden_size": 10**12}, "'hidden_size' is 1000000000000; it must be a whole number up to"),
        ({"num_hidden_layers": 10**6}, "up to 4096"),
        ({"num_hidden_layers": 2}, r"parameter 'bert/encoder/layer/1/.*' \(of 16\) is missing"),
    ]:
        (folder / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(RewardError, match=message):
            sequence_classifier(folder, label=0)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()
    with pytest.raises(RewardError, match=r"sequence classifier .*copy: .*holds no tokenizer"):
        sequence_classifier(folder, label=0)
    (folder / "flax_model.msgpack").unlink()
    with pytest.raises(RewardError, match="holds no weights"):
        sequence_classifier(folder, label=0)
