"""Compares `opencharacter score --json` with peft on the same adapter and dialogues.

Usage: check_adapter.py GGUF ADAPTER DIALOGUES.jsonl SCORES.jsonl

GGUF must not be quantised (`export --to gguf --type f32` makes one): otherwise scores round what meets its weights.
DIALOGUES holds OpenAI-style rows {"messages": [...]} that end with one assistant message; SCORES is what
`opencharacter score --model GGUF --adapter ADAPTER --dialogues DIALOGUES --json` printed. Fails when a mean negative
log-likelihood differs by more than 0.001.
"""

import json
import pathlib
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

gguf, adapter = pathlib.Path(sys.argv[1]), sys.argv[2]
dialogues = [json.loads(line)["messages"] for line in open(sys.argv[3], encoding="utf-8")]
scores = [json.loads(line) for line in open(sys.argv[4], encoding="utf-8")]
assert len(dialogues) == len(scores) > 0, (len(dialogues), len(scores))

tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
base = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
tuned = PeftModel.from_pretrained(base, adapter).eval()
untouched = [name for name, value in tuned.named_parameters() if "lora_B" in name and not value.any()]
assert not untouched, f"{len(untouched)} of the adapter's B matrices are zero, for example {untouched[0]}"


def nll(model, messages):
    prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer = tokenizer(messages[-1]["content"] + "<|im_end|>", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0]
    rows = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return -rows[torch.arange(len(answer)), torch.tensor(answer)].mean().item(), len(answer)


worst = 0.0
for messages, score in zip(dialogues, scores):
    expected, tokens = nll(tuned, messages)
    with tuned.disable_adapter():
        without, _ = nll(tuned, messages)
    assert tokens == score["tokens"], (tokens, score)
    worst = max(worst, abs(expected - score["nll"]))
    print(f"{score['id']}: peft {expected:.6f}, opencharacter {score['nll']:.6f}, without the adapter {without:.6f}")
print(f"largest difference {worst:.2e} over {len(scores)} dialogues")
sys.exit(worst > 1e-3)
