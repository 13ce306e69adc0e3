"""Throughput of a cluster with 1, 2 and 3 workers, and whether its rows are those of one machine.

Usage: cluster.py --opencharacter target/release/opencharacter [--calls 3000] [--latency-ms 200] [--in-flight 64]

Starts a NATS server of its own (`nats-server`, Debian's), an endpoint with latency, and workers with so many calls in
flight each: what one worker can do at most is in-flight / latency, and three can do three times that, as long as the
machine keeps up.
"""

import argparse
import hashlib
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument("--opencharacter", required=True)
parser.add_argument("--calls", type=int, default=3000, help="per worker")
parser.add_argument("--latency-ms", type=int, default=200)
parser.add_argument("--in-flight", type=int, default=64)
arguments = parser.parse_args()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def prepare(folder, calls, base_url):
    folder.mkdir()
    with open(folder / "characters.jsonl", "w") as file:
        for number in range(200):
            row = {"persona": f"A keeper of lighthouse number {number}", "name": f"Keeper {number}", "license": "CC0-1.0"}
            file.write(json.dumps(row) + "\n")
    with open(folder / "instructions.jsonl", "w") as file:
        for number in range(calls // 3):
            file.write(json.dumps({"question": f"What did you see on day {number} of the voyage?"}) + "\n")
    (folder / "models.toml").write_text(
        f'[models.teacher]\nprovider = "openai"\nmodel = "made-up"\nbase_url = "{base_url}"\nmax_in_flight = {arguments.in_flight}\n')
    return [arguments.opencharacter, "dialogues", "--characters", folder / "characters.jsonl", "--instructions",
            folder / "instructions.jsonl", "--models", folder / "models.toml", "--out", folder / "dialogues.jsonl"]


def digest(folder):
    return hashlib.sha256((folder / "dialogues.jsonl").read_bytes()).hexdigest()


with tempfile.TemporaryDirectory() as temporary:
    temporary = pathlib.Path(temporary)
    endpoint = subprocess.Popen([arguments.opencharacter, "bench", "endpoint", "--latency-ms", str(arguments.latency_ms)],
                                stdout=subprocess.PIPE, text=True)
    base_url = endpoint.stdout.readline().strip()
    port = free_port()
    server = subprocess.Popen(["nats-server", "-js", "-sd", temporary / "nats", "-p", str(port), "-a", "127.0.0.1"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"nats://127.0.0.1:{port}"
    time.sleep(1)
    results, same = [], True
    try:
        for count in (1, 2, 3):
            calls = arguments.calls * count
            folder = temporary / f"cluster-{count}"
            command = prepare(folder, calls, base_url)
            workers = [subprocess.Popen([arguments.opencharacter, "worker", "--cluster", url, "--models", folder / "models.toml"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(count)]
            started = time.time()
            subprocess.run([*command, "--cluster", url], check=True, capture_output=True)
            seconds = time.time() - started
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.wait()
            alone = temporary / f"alone-{count}"
            subprocess.run(prepare(alone, calls, base_url), check=True, capture_output=True)
            same = same and digest(folder) == digest(alone)
            bound = count * arguments.in_flight * 1000 / arguments.latency_ms
            results.append({"workers": count, "calls": calls, "seconds": round(seconds, 2),
                            "calls_per_second": round(calls / seconds), "bound_by_latency": round(bound)})
            print(json.dumps(results[-1]), flush=True)
    finally:
        endpoint.kill()
        server.kill()
print(json.dumps({"rows_equal_those_of_one_machine": same}))
sys.exit(0 if same else 1)
