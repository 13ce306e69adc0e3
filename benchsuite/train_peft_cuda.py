"""Times fine-tuning steps of PyTorch, transformers and peft on one GPU: the peer of `opencharacter bench train --device
cuda`.

Usage: train_peft_cuda.py --shape qwen2.5-1.5b [--method lora|full] [--sequences 8] [--tokens 1024] [--steps 20]
                          [--rank 16] [--recompute] [--peak TFLOPS]

The same shapes, the same tokens, bf16 weights, PyTorch's own attention (SDPA), every token trained. With LoRA the
adapter is f32 and products run under bf16 autocast; full fine-tuning keeps f32 weights and runs under the same autocast:
the usual ways to keep f32 masters. The optimiser is torch.optim.AdamW, fused. Prints one JSON document with the fields
of `opencharacter bench train --json`. Needs torch, transformers and peft (xtask/golden/requirements.txt, with CUDA).
"""

import argparse
import json
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

# The shapes of `opencharacter bench train --shape`.
SHAPES = {
    "smollm2-135m": dict(
        model_type="llama", vocab_size=49_152, hidden_size=576, intermediate_size=1_536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, rms_norm_eps=1e-5, rope_theta=100_000.0, tie_word_embeddings=True,
    ),
    "qwen2.5-0.5b": dict(
        model_type="qwen2", vocab_size=151_936, hidden_size=896, intermediate_size=4_864, num_hidden_layers=24,
        num_attention_heads=14, num_key_value_heads=2, rms_norm_eps=1e-6, rope_theta=1e6, tie_word_embeddings=True,
    ),
    "qwen2.5-1.5b": dict(
        model_type="qwen2", vocab_size=151_936, hidden_size=1_536, intermediate_size=8_960, num_hidden_layers=28,
        num_attention_heads=12, num_key_value_heads=2, rms_norm_eps=1e-6, rope_theta=1e6, tie_word_embeddings=True,
    ),
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

parser = argparse.ArgumentParser()
parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-1.5b")
parser.add_argument("--method", choices=["lora", "full"], default="lora")
parser.add_argument("--sequences", type=int, default=8)
parser.add_argument("--tokens", type=int, default=1024)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--rank", type=int, default=16)
parser.add_argument("--recompute", action="store_true")
parser.add_argument("--peak", type=float, default=989.0, help="dense bf16 peak in TFLOP/s; 989 is an H100 SXM")
arguments = parser.parse_args()


class KeyedRandom:
    """opencharacter's generator: SplitMix64 in counter mode, keyed by the SHA-256 of length-prefixed parts."""

    def __init__(self, seed, key):
        import hashlib

        hasher = hashlib.sha256()
        for part in [seed.to_bytes(8, "little"), *(part.encode() for part in key)]:
            hasher.update(len(part).to_bytes(8, "little") + part)
        self.key, self.counter = int.from_bytes(hasher.digest()[:8], "little"), 0

    def below(self, bound):
        mask = 2**64 - 1
        self.counter += 1
        z = (self.key + self.counter * 0x9E3779B97F4A7C15) & mask
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return ((z ^ (z >> 31)) * bound) >> 64


def tokens(step, vocabulary):
    rows = []
    for sequence in range(arguments.sequences):
        random = KeyedRandom(0, [str(step), str(sequence)])
        rows.append([random.below(vocabulary) for _ in range(arguments.tokens)])
    return torch.tensor(rows, device="cuda")


torch.manual_seed(0)
torch.set_default_device("cuda")
shape = dict(SHAPES[arguments.shape])
config = AutoConfig.for_model(shape.pop("model_type"), **shape)
dtype = torch.bfloat16 if arguments.method == "lora" else torch.float32
model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
layers, hidden, vocabulary = config.num_hidden_layers, config.hidden_size, config.vocab_size
matrices = sum(p.numel() for name, p in model.named_parameters() if name.endswith("proj.weight")) + vocabulary * hidden
if arguments.recompute:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
if arguments.method == "lora":
    model = get_peft_model(
        model, LoraConfig(r=arguments.rank, lora_alpha=2 * arguments.rank, target_modules=TARGETS, task_type="CAUSAL_LM")
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if arguments.recompute:
        model.enable_input_require_grads()
model.train()
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

seconds, loss = [], None
for step in range(arguments.steps + 3):
    batch = tokens(step, vocabulary)
    if step == 3:  # The first ones allocate and choose algorithms.
        torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    started = time.perf_counter()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = model(input_ids=batch, labels=batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    value = loss.item()  # As `opencharacter` reports it: waits for the step.
    torch.cuda.synchronize()
    if step >= 3:
        seconds.append(time.perf_counter() - started)

median = statistics.median(seconds)
count = arguments.sequences * arguments.tokens
adapter = sum(p.numel() for p in trained) if arguments.method == "lora" else 0
per_token = 4 * matrices + 6 * adapter if arguments.method == "lora" else 6 * matrices
print(json.dumps({
    "peer": f"torch {torch.__version__}",
    "device": torch.cuda.get_device_name(),
    "model": arguments.shape,
    "method": arguments.method,
    "tokens_per_step": count,
    "step_seconds": seconds,
    "median_step_seconds": median,
    "tokens_per_second": count / median,
    "step_flops": per_token * count,
    "matrix_parameters": matrices,
    "model_flops_utilisation": per_token * count / median / (arguments.peak * 1e12),
    "peak_device_bytes": torch.cuda.max_memory_allocated(),
    "loss": value,
}))
