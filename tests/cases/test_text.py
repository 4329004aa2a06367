"""Texts as users have them: what is learnt, asked, written and judged is one text in one encoding."""

import json
import pathlib

import numpy as np
import pytest

from gempi_jax.llm import Completions, RewardSpec, TooLong, load_tokenizer
from gempi_jax.llm.encoding import as_written, encode_demonstrations
from gempi_jax.runners.build import settings_from_config
from gempi_jax.runners.data import Source
from gempi_jax.runners.ends import Ends
from gempi_jax.runners.tasks import load_task
from tests.cases import users


def sources(folder: pathlib.Path, rows, reward=lambda completions, **_: [0.0] * len(completions)):
    """The tokenizer, what SFT learns of rows, and what rollouts and evaluations ask of them."""
    tokenizer = load_tokenizer(folder)

    def make(learns):
        return Source(
            rows,
            tokenizer,
            [RewardSpec("own", reward)],
            ends=Ends((tokenizer.eos_token_id,)),
            batch_prompts=len(rows),
            max_prompt_length=96,
            max_completion_length=64,
            long_prompts=TooLong.ERROR,
            answers=("completion",) if learns else (),
            seed=0,
        )

    return tokenizer, make(True), make(False)


def prompts_of(source: Source) -> list[list[int]]:
    taken = source.take(np.arange(len(source.rows)))
    return [row[:length].tolist() for row, length in zip(taken.tokens, taken.lengths, strict=True)]


def learnt_of(source: Source) -> Completions:
    """All rows' own completions, as if the policy had written them."""
    index = np.arange(len(source.rows))
    batch, _ = source.completions(source.take(index), index)
    nothing = np.zeros(batch.completions.shape, np.float32)
    return Completions(batch.completions, batch.mask.sum(-1).astype(np.int32), nothing, nothing)


JOINED = [
    {"prompt": "The dog said", "completion": ": no."},
    {"prompt": "The pig is un", "completion": "happy."},
    {"prompt": "There", "completion": " was a cow."},
    {"prompt": "It has 1", "completion": "7 eggs."},
    {"prompt": "The owl. ", "completion": "It went home."},
    {"prompt": "<s>[user] Name it.\n[assistant] ", "completion": "The owl"},
]


def test_texts_join_as_they_stand_and_prompts_are_the_same_everywhere(words_model):
    tokenizer, learnt, asked = sources(words_model(), JOINED)
    assert prompts_of(learnt) == prompts_of(asked)
    assert all(tokens.count(tokenizer.bos_token_id) == 1 for tokens in prompts_of(asked))
    found = learnt_of(learnt)
    for row, prompt, tokens, length in zip(
        JOINED, prompts_of(learnt), found.tokens[:, 0], found.lengths[:, 0], strict=True
    ):
        text = tokenizer.decode([*prompt, *tokens[:length].tolist()])
        whole = row["prompt"] + row["completion"]
        assert text.replace("<s> ", "<s>").removeprefix("<s>") == whole.removeprefix("<s>") + "</s>"
    texts = learnt.texts(learnt.take(np.arange(len(JOINED))), found)
    assert texts == [row["completion"] for row in JOINED]
    assert learnt.num_straddling == 0


def test_a_token_across_the_seam_is_learnt_and_its_row_counted(pieces_model):
    rows = [
        {"prompt": "The cat went to the ri", "completion": "ver."},
        {"prompt": "The cat is", "completion": " big."},
    ]
    tokenizer, learnt, asked = sources(pieces_model(), rows)
    assert learnt.num_straddling == 1
    assert asked.num_straddling == 0
    assert len(prompts_of(learnt)[0]) < len(prompts_of(asked)[0])
    found = learnt_of(learnt)
    first = tokenizer.decode(found.tokens[0, 0, : found.lengths[0, 0]])
    assert tokenizer.decode(prompts_of(learnt)[0]) + first == "The cat went to the river.<|endoftext|>"
    assert first.strip().startswith("ri")


@pytest.mark.parametrize("chat", ["plain", "trim", "tools"])
def test_every_word_of_an_answer_is_learnt_behind_the_prompt_of_rollouts(words_model, chat):
    asked = [{"role": "user", "content": "Name the cat."}]
    said = {"role": "assistant", "content": "It is a cat."}
    row = {"prompt": asked, "completion": [said], "messages": [*asked, said]}
    several = {"messages": [*asked, said, *asked, said], "prompt": asked, "completion": [said]}
    for rows in ([row], [several], [{"prompt": asked, "completion": [said]}]):
        tokenizer, learnt, rollouts = sources(words_model(chat), rows)
        assert prompts_of(learnt) == prompts_of(rollouts)
        assert learnt.num_straddling == 0
        batch, _ = learnt.completions(learnt.take(np.arange(1)), np.arange(1))
        tokens = batch.completions[0, 0][batch.mask[0, 0]].tolist()
        times = 2 if rows == [several] else 1
        assert tokenizer.decode(tokens).replace(" ", "") == "Itisacat.</s>" * times
    assert learnt.texts(learnt.take(np.arange(1)), learnt_of(learnt)) == ["It is a cat."]


def test_rewards_read_special_tokens_spaces_and_nothing_that_ends(words_model):
    seen = []

    def reward(prompts, completions, **_):
        seen.extend(prompt + text for prompt, text in zip(prompts, completions, strict=True))
        return [1.0] * len(completions)

    rows = [
        {"prompt": "Say it:", "completion": "<answer>cat</answer>"},
        {"prompt": "The cat went to the", "completion": " river , is n't it ?"},
        {"prompt": "Say it: ", "completion": "<answer>"},
    ]
    tokenizer, learnt, _ = sources(words_model(special=("<answer>", "</answer>")), rows, reward)
    tokenizer.clean_up_tokenization_spaces = True
    learnt.rewards(learnt.take(np.arange(3)), learnt_of(learnt))
    assert seen == [row["prompt"] + row["completion"] for row in rows]


def test_rewards_are_tried_on_what_the_policy_could_write(words_model):
    tokenizer = load_tokenizer(words_model("plain"))
    ask = [{"role": "user", "content": "a"}]
    rows = [
        {"prompt": "Say it:", "completion": "cat</s>"},
        {"prompt": "Say it:", "answer": " cat"},
        {"prompt": "Say it:", "answer": 3},
        {"prompt": ask, "completion": [{"role": "assistant", "content": "The cat"}]},
    ]
    golds = [row.get("completion") for row in as_written(tokenizer, rows)]
    assert golds == ["cat", " cat", None, [{"role": "assistant", "content": "The cat"}]]


TEXTS = [{"text": f"The {a} is {b}. Once upon a time, the {a} went to the river."} for a, b in
         [("cat", "big"), ("dog", "red"), ("cow", "small"), ("pig", "big")]]  # fmt: skip


@pytest.mark.parametrize("begin", [True, False])
def test_of_a_text_all_is_learnt_and_its_end(words_model, pieces_model, begin):
    folder = words_model() if begin else pieces_model()
    tokenizer = load_tokenizer(folder)
    rows = [dict(row) for row in TEXTS]
    found = encode_demonstrations(tokenizer, rows, 8, 96)
    for row, prompt, tokens, learnt in zip(rows, found.prompts, found.completions, found.learnt, strict=True):
        assert all(learnt)
        assert tokens[-1] == tokenizer.eos_token_id
        whole = tokenizer(row["text"], add_special_tokens=False)["input_ids"]
        assert prompt == ([tokenizer.bos_token_id] if begin else whole[:1])
        assert [*prompt, *tokens][-1 - len(whole) : -1] == whole


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_learns_texts_and_is_judged_by_how_it_goes_on_with_others(words_model, tmp_path, read_metrics, stream):
    train, heldout = users.write_rows(tmp_path / "a.jsonl", TEXTS), users.write_rows(tmp_path / "b.jsonl", TEXTS[:2])
    config = users.users_config(words_model(), train, heldout, "sft")
    config.data.update({"stream": stream, "long_completions": "truncate", "max_prompt_length": 64})
    config.sft.update({"num_iterations": 1, "max_completion_length": 12})
    task = load_task(settings_from_config(config))
    assert [row["text"] for row in task.demonstrations] == [row["text"] for row in TEXTS]
    for row, text in zip(task.heldout, TEXTS, strict=False):
        assert row["prompt"] + row["completion"] == text["text"]
        assert len(row["prompt"]) <= 32
        assert row["completion"].startswith(" ")
    if stream:
        return
    users.start(config, tmp_path / "run")
    last = read_metrics(tmp_path / "run")[-1]
    assert last["data/truncated_rows"] == 4
    assert last["data/seam_rows"] == 0
    assert last["num_tokens"] == 4 * 13
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert samples[0]["prompt"] == task.heldout[0]["prompt"]


def test_an_empty_text_is_named(words_model, tmp_path):
    train = users.write_rows(tmp_path / "a.jsonl", [*TEXTS, {"text": ""}])
    config = users.users_config(words_model(), train, users.write_rows(tmp_path / "b.jsonl", TEXTS))
    with pytest.raises(ValueError, match=r"a\.jsonl:5: 'text' is ''; it has to be a string with something in it"):
        load_task(settings_from_config(config))
