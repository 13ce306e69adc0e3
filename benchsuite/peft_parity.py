"""Trains one adapter with opencharacter and one with transformers and peft, on the same batches, and compares their
held-out losses.

Usage: peft_parity.py --opencharacter BINARY --model MODEL.gguf --dialogues TRAIN.jsonl --held-out HELD_OUT.jsonl
           --work FOLDER [--limit 250] [--held-out-limit 40] [--learning-rate 8e-4] [--seed 0] [--threads 2]
           [--initial ours|peft]

Same weights (the GGUF file, dequantised by transformers), same rows in the same order (`train --show-masks --json`
prints the packed batches that opencharacter trains on), same hyper-parameters: those of `opencharacter train`, written
out below. peft gets each segment of a batch as a sequence of its own; a step's loss is the sum over its trained tokens,
divided by their number. With `--initial ours` (the default) peft starts from opencharacter's initial factors, which a
training with a learning rate of 1e-30 writes; with `--initial peft` from its own.

WORK keeps what each side made; a side that is there already is not run again. Prints one JSON document: mean negative
log-likelihood per trained held-out token, in nats, before and after on both sides, and the ratio of those after.
Fails when that is more than 1% from 1.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

RANK, ALPHA = 16, 32
BETAS, EPSILON, WEIGHT_DECAY = (0.9, 0.95), 1e-8, 0.0
WARMUP, FLOOR, LARGEST_NORM = 0.1, 0.1, 1.0
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

parser = argparse.ArgumentParser()
parser.add_argument("--opencharacter", required=True)
parser.add_argument("--model", required=True, type=pathlib.Path)
parser.add_argument("--dialogues", required=True)
parser.add_argument("--held-out", required=True)
parser.add_argument("--work", required=True, type=pathlib.Path)
parser.add_argument("--limit", type=int, default=250)
parser.add_argument("--held-out-limit", type=int, default=40)
parser.add_argument("--learning-rate", type=float, default=8e-4)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--initial", choices=["ours", "peft"], default="ours")
arguments = parser.parse_args()
arguments.work.mkdir(parents=True, exist_ok=True)


def opencharacter(dialogues, limit, *options):
    command = [arguments.opencharacter, "train", "--model", str(arguments.model), "--dialogues", dialogues]
    command += ["--limit", str(limit), "--seed", str(arguments.seed), "--epochs", "1", "--schedule", "cosine"]
    command += ["--rank", str(RANK), "--alpha", str(ALPHA), "--weight-decay", str(WEIGHT_DECAY), "--json", *options]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert result.returncode == 0, command
    return [json.loads(line) for line in result.stdout.splitlines()]


def ours():
    held_out = ["--held-out", arguments.held_out, "--held-out-limit", str(arguments.held_out_limit)]
    rate = ["--learning-rate", str(arguments.learning_rate)]
    [trained] = opencharacter(arguments.dialogues, arguments.limit, *held_out, *rate, "--out", str(arguments.work / "ours"))
    return trained


def batches(dialogues, limit):
    """Packed batches as lists of `(tokens, trained)`, one per segment."""
    def segments(batch):
        borders = batch["cumulative_lengths"]
        return [
            (torch.tensor(batch["tokens"][start:end]), torch.tensor(batch["trained"][start:end]))
            for start, end in zip(borders, borders[1:])
        ]

    return [segments(batch) for batch in opencharacter(dialogues, limit, "--show-masks", str(limit))]


def loss_sum(model, segment):
    """Sum of the trained tokens' negative log-likelihoods, and how many they are."""
    tokens, trained = segment
    rows = torch.nonzero(trained).squeeze(1) - 1
    assert len(rows) == 0 or rows.min() >= 0
    # The head at the trained places alone: the others' logits would be thrown away.
    logits = model(input_ids=tokens[None], logits_to_keep=rows).logits[0]
    return torch.nn.functional.cross_entropy(logits, tokens[rows + 1], reduction="sum"), len(rows)


def held_out_nll(model, held_out):
    model.eval()
    with torch.no_grad():
        losses = [loss_sum(model, segment) for batch in held_out for segment in batch]
    model.train()
    return sum(loss.item() for loss, _ in losses) / sum(count for _, count in losses)


def initial_factors(model):
    """Puts opencharacter's initial factors in place of peft's."""
    folder = arguments.work / "initial"
    opencharacter(arguments.dialogues, 1, "--learning-rate", "1e-30", "--out", str(folder))
    factors = load_file(folder / "adapter/adapter_model.safetensors")
    names = {name.replace(".default", ""): factor for name, factor in model.named_parameters() if "lora_" in name}
    assert names.keys() == factors.keys()
    with torch.no_grad():
        for name, factor in names.items():
            if "lora_B" in name:
                assert factors[name].abs().max() < 1e-25 and not factor.any()
            else:
                factor.copy_(factors[name])


def rate(step, steps):
    """The learning rate of `step` (from 0), as in opencharacter-train/src/schedule.rs."""
    warmup = math.ceil(WARMUP * steps)
    if step < warmup:
        return arguments.learning_rate * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup - 1))
    return arguments.learning_rate * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * progress)))


def peft():
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    train, held_out = batches(arguments.dialogues, arguments.limit), batches(arguments.held_out, arguments.held_out_limit)
    model = AutoModelForCausalLM.from_pretrained(
        str(arguments.model.parent), gguf_file=arguments.model.name, dtype=torch.float32
    )
    model = get_peft_model(
        model, LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM")
    )
    if arguments.initial == "ours":
        initial_factors(model)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1.0, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY)
    before, started, steps = held_out_nll(model, held_out), time.perf_counter(), []
    for step, batch in enumerate(train):
        total, count = 0.0, sum(int(trained.sum()) for _, trained in batch)
        for segment in batch:
            loss, _ = loss_sum(model, segment)
            (loss / count).backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(trainable, LARGEST_NORM).item()
        for group in optimizer.param_groups:
            group["lr"] = rate(step, len(train))
        optimizer.step()
        optimizer.zero_grad()
        steps.append({"loss": total / count, "gradient_norm": norm, "learning_rate": optimizer.param_groups[0]["lr"]})
        print(f"peft, step {step + 1} of {len(train)}: loss {total / count:.4f}", file=sys.stderr)
    seconds = time.perf_counter() - started
    return {
        "held_out_before": before, "held_out_after": held_out_nll(model, held_out), "seconds": seconds, "steps": steps,
        "initial": arguments.initial, "trained_tokens": sum(int(trained.sum()) for batch in train for _, trained in batch),
        "held_out_tokens": sum(int(trained.sum()) for batch in held_out for _, trained in batch),
    }


def once(name, make):
    path = arguments.work / f"{name}.json"
    if not path.exists():
        path.write_text(json.dumps(make(), indent=1) + "\n", encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


mine, theirs = once("ours_result", ours), once("peft_result", peft)
metrics = [json.loads(line) for line in open(arguments.work / "ours/metrics.jsonl", encoding="utf-8")]
assert len(metrics) == len(theirs["steps"]), (len(metrics), len(theirs["steps"]))
apart = max(abs(a["learning_rate"] / b["learning_rate"] - 1) for a, b in zip(metrics, theirs["steps"]))
assert apart < 1e-9, f"the schedules differ by {apart}"
assert sum(step["trained_tokens"] for step in metrics) == theirs["trained_tokens"], "the batches differ"
ratio = mine["held_out_after"] / theirs["held_out_after"]
print(json.dumps({
    "steps": len(metrics),
    "trained_tokens": theirs["trained_tokens"],
    "held_out_tokens": theirs["held_out_tokens"],
    "peft_starts_from": theirs["initial"],
    "opencharacter": {key: mine[key] for key in ("held_out_before", "held_out_after", "seconds")},
    "peft": {key: theirs[key] for key in ("held_out_before", "held_out_after", "seconds")},
    "largest_relative_difference_of_a_steps_loss": max(
        abs(a["loss"] / b["loss"] - 1) for a, b in zip(metrics, theirs["steps"])
    ),
    "ratio_after": ratio,
}, indent=1))
sys.exit(abs(ratio - 1) > 0.01)
