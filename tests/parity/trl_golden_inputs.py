"""The tiny Qwen2, the batches and the tools of the scripts that write trl_golden.npz; runs in TRL's environment."""

import functools
import json
import pathlib

import numpy as np
import tokenizers
import torch
import transformers

FILE = pathlib.Path(__file__).with_name("trl_golden.npz")
PAD, EOS = 0, 2
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 44,
    "hidden_size": 16,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}
PROMPT_LENGTHS = (2, 5, 3, 4)
COMPLETION_LENGTHS = ((8, 3, 1, 5), (2, 8, 4, 6), (7, 5, 8, 3), (4, 1, 6, 2))
REWARDS = ((1.0, -0.5, 0.25, 2.0), (0.0, 1.5, 0.5, -1.0), (0.75, -0.25, 3.0, 1.0), (0.5, 0.5, 0.5, 0.5))


def make_weights():
    """Three policies: ref at random, old and then policy each a step further; norms and biases are random too."""
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**CONFIG, initializer_range=0.3))

    def moved(weights, scale):
        return {name: value + scale * torch.randn(value.shape) for name, value in weights.items()}

    # A tied head is the embedding under another name.
    ref = moved({name: v for name, v in model.state_dict().items() if name != "lm_head.weight"}, 0.1)
    old = moved(ref, 0.02)
    return {"ref": ref, "old": old, "policy": moved(old, 0.012)}


def make_groups():
    """Prompts, completions and rewards of four groups, right-padded; what is shorter than the longest ends with EOS."""
    generator = np.random.default_rng(0)
    prompts = [generator.integers(3, CONFIG["vocab_size"], length).tolist() for length in PROMPT_LENGTHS]
    longest = max(map(max, COMPLETION_LENGTHS))

    def completion(length):
        tokens = generator.integers(3, CONFIG["vocab_size"], length).tolist()
        return tokens if length == longest else [*tokens[:-1], EOS]

    return prompts, [[completion(length) for length in row] for row in COMPLETION_LENGTHS], REWARDS


def best_and_worst(groups):
    """The pairs (best, worst) of the groups whose rewards differ."""
    prompts, pairs, rewards = [], [], []
    for prompt, completions, values in zip(*groups, strict=True):
        if max(values) > min(values):
            order = (int(np.argmax(values)), int(np.argmin(values)))
            prompts.append(prompt)
            pairs.append([completions[i] for i in order])
            rewards.append([values[i] for i in order])
    return prompts, pairs, rewards


def padded(batch):
    """A batch as arrays: prompts [G, P], completions [G, K, C], their lengths [G] and [G, K], and rewards [G, K]."""
    prompts, completions, rewards = batch
    width = max(len(tokens) for group in completions for tokens in group)

    def pad(tokens, length):
        return tokens + [PAD] * (length - len(tokens))

    return {
        "prompts": np.array([pad(tokens, max(map(len, prompts))) for tokens in prompts], np.int32),
        "prompt_lengths": np.array([len(tokens) for tokens in prompts], np.int32),
        "completions": np.array([[pad(tokens, width) for tokens in group] for group in completions], np.int32),
        "completion_lengths": np.array([[len(tokens) for tokens in group] for group in completions], np.int32),
        "rewards": np.array(rewards, np.float32),
    }


def make_tokenizer():
    """One word per id; TRL's constructors ask for a tokenizer, the tokens never pass through it."""
    words = {f"t{i}": i for i in range(CONFIG["vocab_size"])}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="t1"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="t0", eos_token="t2")


class Recorder:
    """Casts what a model says about tokens to float64 and keeps it for gradients."""

    def __init__(self, model, weights, field="log_probs"):
        """Puts ``weights`` into the model and itself between the model and its callers."""
        model.load_state_dict(weights, strict=False)
        self.kept, self._forward, self._field = None, model.forward, field
        model.forward = functools.wraps(self._forward)(self)

    def __call__(self, *args, **kwargs):
        output = self._forward(*args, **kwargs)
        self.kept = output[self._field].double()
        output[self._field] = self.kept
        return output


def by_row(values, mask, shape):
    """Values [R, T] at the mask's places, moved to the left, as [G, K, C]; zero elsewhere."""
    out = np.zeros((len(values), shape[-1]))
    for row, value, chosen in zip(out, values.detach().numpy(), mask.bool().numpy(), strict=True):
        row[: chosen.sum()] = value[chosen]
    return out.reshape(shape)


def gradients(loss, log_probs, model):
    """d loss / d log-probs, and d loss / d parameters by name."""
    model.zero_grad()
    (by_token,) = torch.autograd.grad(loss, [log_probs], retain_graph=True)
    loss.backward()
    return by_token, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def flat(tensors, values):
    """Values by name as one vector, in the order of ``tensors``: an archive of many small arrays is mostly headers."""
    return torch.cat([values[name].flatten() for name in tensors]).numpy()


def make_full():
    """Three groups whose completions are all equally long and without EOS."""
    generator = np.random.default_rng(1)
    prompts, _, rewards = make_groups()
    return prompts[:3], generator.integers(3, CONFIG["vocab_size"], (3, 4, 5)).tolist(), rewards[:3]


def save(content, batches, cases):
    """Writes the golden file: ``content``, with these batches and cases added, and prints each case's loss."""
    content, tensors = dict(content), json.loads(str(content["tensors"]))
    content |= {f"batches/{batch}/{name}": v for batch in batches for name, v in padded(batches[batch]).items()}
    for case, fields in cases.items():
        fields = fields | {"grad_params": flat(tensors, fields["grad_params"])}
        content |= {f"cases/{case}/{name}": value for name, value in fields.items()}
        print(f"{case:22s} {fields['batch']:8s} {fields['loss']:.10f}")
    np.savez_compressed(FILE, **content)
