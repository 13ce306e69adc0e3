"""Times fine-tuning steps of PyTorch, transformers and peft: the peer of `opencharacter bench train`.

Usage: train_peft.py --model MODEL.gguf [--method lora|full] [--sequences 4] [--tokens 256] [--answer-tokens N]
                     [--steps 5] [--threads 2]

Prints one JSON document with the same fields as `opencharacter bench train --json`. Every token is trained, or the
last N of each sequence (the labels of the others are -100, as trainers for chats have it). Attention is PyTorch's own
(SDPA), weights are f32, the optimiser is torch.optim.AdamW.
"""

import argparse
import json
import pathlib
import resource
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True, type=pathlib.Path)
parser.add_argument("--method", choices=["lora", "full"], default="lora")
parser.add_argument("--sequences", type=int, default=4)
parser.add_argument("--tokens", type=int, default=256)
parser.add_argument("--answer-tokens", type=int)
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--rank", type=int, default=16)
parser.add_argument("--threads", type=int, default=2)
arguments = parser.parse_args()

torch.manual_seed(0)
torch.set_num_threads(arguments.threads)
source = (
    {"pretrained_model_name_or_path": str(arguments.model)}
    if arguments.model.is_dir()
    else {"pretrained_model_name_or_path": str(arguments.model.parent), "gguf_file": arguments.model.name}
)
model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
if arguments.method == "lora":
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(
        model, LoraConfig(r=arguments.rank, lora_alpha=2 * arguments.rank, target_modules=targets, task_type="CAUSAL_LM")
    )
model.train()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

# The peak of the steps alone: loading holds the weights twice for a moment.
pathlib.Path("/proc/self/clear_refs").write_text("5")
seconds, loss = [], None
for step in range(arguments.steps + 1):
    tokens = torch.randint(0, 49_000, (arguments.sequences, arguments.tokens))
    labels = tokens.clone()
    if arguments.answer_tokens is not None:
        labels[:, : -arguments.answer_tokens] = -100
    started = time.perf_counter()
    loss = model(input_ids=tokens, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step > 0:  # The first one allocates.
        seconds.append(time.perf_counter() - started)

peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
median = statistics.median(seconds)
print(json.dumps({
    "peer": f"torch {torch.__version__}",
    "method": arguments.method,
    "tokens_per_step": arguments.sequences * arguments.tokens,
    "step_seconds": seconds,
    "median_step_seconds": median,
    "tokens_per_second": arguments.sequences * arguments.tokens / median,
    "peak_resident_bytes": peak,
    "whole_process_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
