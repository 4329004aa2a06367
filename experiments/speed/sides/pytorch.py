"""transformers' PyTorch models by hand: a step of AdamW, and generation."""

import itertools
import json
import pathlib

import torch
import transformers

from experiments.speed.gate import Gate
from experiments.speed.work import Job


def sft(job: Job, gate: Gate) -> None:
    """The loss of the completions, its gradient clipped to norm 1, and a fused AdamW step."""
    model = _model(job).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0, fused=True)
    tokens = _demonstrations(job)
    labels = tokens.clone()
    labels[:, : job.work.prompt_length] = -100
    for step in itertools.count():
        index = (step * job.work.prompts + torch.arange(job.work.prompts)) % len(tokens)
        gate()
        model(input_ids=tokens[index], labels=labels[index]).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def generation(job: Job, gate: Gate) -> None:
    """Samples of each prompt, which is repeated for them as users of it must."""
    model, work = _model(job).eval(), job.work
    prompts = _demonstrations(job)[: work.prompts, : work.prompt_length].repeat_interleave(work.samples, 0)
    options = {"do_sample": True, "top_k": 0, "temperature": 1.0, "max_new_tokens": work.completion_length}
    tokens = 0
    while True:
        gate(tokens=tokens)
        with torch.no_grad():
            output = model.generate(prompts, attention_mask=torch.ones_like(prompts), **options)
        tokens = int((output[:, work.prompt_length :] != model.config.pad_token_id).sum())


def _model(job: Job) -> torch.nn.Module:
    torch.set_num_threads(1)
    path = pathlib.Path(job.folder) / "model"
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def _demonstrations(job: Job) -> torch.Tensor:
    """Prompts with their completions, an end token last."""
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(pathlib.Path(job.folder) / "model")
    rows = map(json.loads, (pathlib.Path(job.folder) / "sft.jsonl").read_text(encoding="utf-8").splitlines())
    texts = [row["prompt"] + row["completion"] for row in rows]
    return torch.tensor([[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts)["input_ids"]])
