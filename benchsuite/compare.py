"""Runs `opencharacter bench` and its peers in turns on this machine, and prints medians and ratios.

Usage: compare.py --opencharacter target/release/opencharacter --model MODEL.gguf --llama FOLDER --python VENV/bin/python
                  [--rounds 3] [--repeats 5] [--only lora,full,answers,batch,stream,prefill] [--out results.json]

FOLDER is what build_llama_cpp.sh made; VENV holds xtask/golden/requirements.txt. Leave the machine alone meanwhile.
A round is both sides, one after the other, each a median of its repeats. On a shared machine one round says little: two
that were taken half an hour apart gave 1.70 and 1.30. So there are several, and the ratio is the median of theirs.
"""

import argparse
import functools
import json
import pathlib
import statistics
import subprocess
import sys

parser = argparse.ArgumentParser()
parser.add_argument("--opencharacter", required=True)
parser.add_argument("--model", required=True)
parser.add_argument("--llama", required=True, type=pathlib.Path)
parser.add_argument("--python", required=True)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--only", default="lora,full,answers,batch,stream,prefill")
parser.add_argument("--out", type=pathlib.Path)
arguments = parser.parse_args()
here = pathlib.Path(__file__).parent


def run(*command):
    print("+", *command, file=sys.stderr)
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def ours(*options):
    return json.loads(run(arguments.opencharacter, "bench", *options, "--model", arguments.model, "--json"))


def train(method, *options):
    found = ours("train", "--method", method, "--steps", arguments.repeats, *options)
    peer = json.loads(run(
        arguments.python, here / "train_peft.py", "--model", arguments.model, "--method", method,
        "--steps", arguments.repeats, "--threads", arguments.threads, *options,
    ))
    memory = found["peak_resident_bytes"] / peer["peak_resident_bytes"]
    return {
        "unit": "tokens/s", "ours": found["tokens_per_second"], "peer": peer["tokens_per_second"],
        "memory": f"{found['peak_resident_bytes'] / 2**20:.0f} against {peer['peak_resident_bytes'] / 2**20:.0f} MiB "
                  f"({memory:.2f})",
    }


def llama_bench(prompt, new):
    rows = json.loads(run(
        arguments.llama / "bin/llama-bench", "-m", arguments.model, "-p", prompt, "-n", new, "-r", arguments.repeats,
        "-t", arguments.threads, "-o", "json",
    ))
    return statistics.median(rows[0]["samples_ts"])


def batched(parallel):
    """llama.cpp's whole rate: new tokens over the time of prompts and new tokens together, and its decoding alone."""
    lines = run(
        arguments.llama / "bin/llama-batched-bench", "-m", arguments.model, "-npp", 128, "-ntg", 128, "-npl", parallel,
        "-c", 256 * 64 + 1024, "-t", arguments.threads, "-tb", arguments.threads, "--output-format", "jsonl",
    ).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


@functools.cache
def best_batches():
    """The batch sizes at which llama.cpp's whole rate, and its decoding alone, are highest."""
    rows = batched("1,2,4,8,16,32,64")
    return max(rows, key=whole)["pl"], max(rows, key=lambda row: row["speed_tg"])["pl"]


def whole(row):
    return row["pl"] * row["tg"] / row["t"]


def batch():
    found = ours("engine", "--requests", 64, "--repeats", arguments.repeats)
    best, best_decode = best_batches()
    repeated = {size: [batched(size)[0] for _ in range(arguments.repeats)] for size in {best, best_decode}}
    peer_decode = statistics.median(row["speed_tg"] for row in repeated[best_decode])
    return {
        "unit": f"new tokens/s, prompts included (peer's best batch: {best})",
        "ours": found["generated_tokens_per_second"],
        "peer": statistics.median(map(whole, repeated[best])),
        "memory": f"decoding alone {found['decode_tokens_per_second']:.1f} against {peer_decode:.1f} tokens/s "
                  f"({found['decode_tokens_per_second'] / peer_decode:.2f}; peer's best batch {best_decode})",
    }


def stream():
    found = ours("engine", "--requests", 1, "--repeats", arguments.repeats)
    return {"unit": "tokens/s, one stream", "ours": found["decode_tokens_per_second"], "peer": llama_bench(0, 128)}


def prefill():
    found = ours("engine", "--requests", 1, "--prompt-tokens", 512, "--new-tokens", 1, "--repeats", arguments.repeats)
    return {"unit": "tokens/s, 512 tokens", "ours": found["prefill_tokens_per_second"], "peer": llama_bench(512, 0)}


# As chats are trained: a long prompt, and an answer that is a quarter of the tokens. The head sees the answer alone.
rows = {"lora": lambda: train("lora"), "full": lambda: train("full"),
        "answers": lambda: train("lora", "--answer-tokens", 64), "batch": batch, "stream": stream, "prefill": prefill}
results = {}
for name in arguments.only.split(","):
    taken = []
    for _ in range(arguments.rounds):
        row = rows[name]()
        taken.append({**row, "ratio": row["ours"] / row["peer"]})
    row = {**taken[-1], **{key: statistics.median(row[key] for row in taken) for key in ("ours", "peer", "ratio")}}
    results[name] = {**row, "rounds": taken}
    ratios = ", ".join(f"{row['ratio']:.2f}" for row in taken)
    print(f"{name:8} {row['ours']:8.1f} against {row['peer']:8.1f} {row['unit']}: {row['ratio']:.2f} ({ratios}); "
          f"{row.get('memory', '')}", flush=True)
if arguments.out:
    arguments.out.write_text(json.dumps(results, indent=1))
