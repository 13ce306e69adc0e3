"""Measures how cost grows with the work, and prints one table for each claim.

Usage: growth.py --opencharacter target/release/opencharacter --model MODEL.gguf
                 [--steps 5] [--only tokens,length,memory] [--out results.json]

tokens: an adapter's training step over more and more sequences of one length. Its time is linear in the tokens.
length: the same number of tokens in fewer and longer sequences. Only attention's arithmetic grows, so a step of longer
        sequences takes no more than the arithmetic of both says.
memory: the engine's peak over growing numbers of requests. It is linear in the tokens whose keys and values are held,
        those of finished prompts among them, which stay for requests that begin alike.

Leave the machine alone meanwhile. A step of 8,192 tokens takes about a minute on two cores.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

parser = argparse.ArgumentParser()
parser.add_argument("--opencharacter", required=True)
parser.add_argument("--model", required=True)
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--only", default="tokens,length,memory")
parser.add_argument("--out", type=pathlib.Path)
arguments = parser.parse_args()


def bench(*options):
    command = [arguments.opencharacter, "bench", *map(str, options), "--model", arguments.model, "--json"]
    print("+", *command, file=sys.stderr)
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def train(sequences, length):
    found = bench("train", "--sequences", sequences, "--tokens", length, "--steps", arguments.steps)
    flops = found["step_flops"] + found["attention_flops"]
    return {
        "sequences": sequences, "length": length, "seconds": found["median_step_seconds"],
        "attention_share": found["attention_flops"] / flops, "flops": flops,
        "gigaflops_per_second": flops / found["median_step_seconds"] / 1e9,
        "peak_mebibytes": found["peak_resident_bytes"] / 2**20,
    }


def training_table(rows):
    """Each row beside the first: what its arithmetic allows, and what it took."""
    print("sequences x length  attention's share  allowed  took  s/step  GFLOP/s  peak MiB")
    for row in rows:
        row["allowed"], row["took"] = row["flops"] / rows[0]["flops"], row["seconds"] / rows[0]["seconds"]
        print(f"{row['sequences']:6} x {row['length']:5}      {row['attention_share']:10.1%}      {row['allowed']:6.2f}  "
              f"{row['took']:6.2f}  {row['seconds']:6.1f}  {row['gigaflops_per_second']:6.0f}  "
              f"{row['peak_mebibytes']:8.0f}", flush=True)
    return rows


def tokens():
    return training_table([train(sequences, 512) for sequences in (2, 4, 8, 16)])


def length():
    return training_table([train(8192 // length, length) for length in (512, 1024, 2048, 4096, 8192)])


def memory():
    prompt, new = 240, 16
    rows = []
    for requests in (4, 8, 16, 32):
        # One round: prompts read for one token each, then other prompts for `new` tokens.
        found = bench("engine", "--requests", requests, "--prompt-tokens", prompt, "--new-tokens", new, "--repeats", 0)
        rows.append({"requests": requests, "live_tokens": requests * (prompt + new),
                     "held_tokens": requests * (2 * prompt + new), "peak_bytes": found["peak_resident_bytes"]})
    slope, intercept = statistics.linear_regression([row["held_tokens"] for row in rows],
                                                    [row["peak_bytes"] for row in rows])
    print(f"peak = {intercept / 2**20:.0f} MiB + {slope / 1024:.1f} KiB per held token")
    print("requests  live tokens  held tokens  peak MiB  from the line")
    for row in rows:
        line = intercept + slope * row["held_tokens"]
        print(f"{row['requests']:8}  {row['live_tokens']:11}  {row['held_tokens']:11}  {row['peak_bytes'] / 2**20:8.0f}  "
              f"{row['peak_bytes'] / line - 1:+13.1%}", flush=True)
    return rows


claims = {"tokens": tokens, "length": length, "memory": memory}
results = {}
for name in arguments.only.split(","):
    print(f"\n{name}")
    results[name] = claims[name]()
if arguments.out:
    arguments.out.write_text(json.dumps(results, indent=1))
