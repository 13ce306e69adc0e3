"""Kills a synthesis run with SIGKILL at random moments and shows that nothing is lost, doubled or invented.

Usage: kill.py --opencharacter target/release/opencharacter [--calls 20000] [--kills 100] [--in-flight 32] [--seed 0]

An endpoint of its own (`opencharacter bench endpoint`) counts every request. The run is killed again and again, then
finished, and compared with one that was left alone against another endpoint: the files must be equal byte for byte, each
question answered, and the answers given twice no more than were in flight at the kills.
"""

import argparse
import hashlib
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

parser = argparse.ArgumentParser()
parser.add_argument("--opencharacter", required=True)
parser.add_argument("--calls", type=int, default=20000)
parser.add_argument("--kills", type=int, default=100)
parser.add_argument("--in-flight", type=int, default=32)
parser.add_argument("--latency-ms", type=int, default=60)
parser.add_argument("--faults", default="")
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()
draw = random.Random(arguments.seed)


class Endpoint:
    def __init__(self):
        command = [arguments.opencharacter, "bench", "endpoint", "--latency-ms", str(arguments.latency_ms)]
        if arguments.faults:
            command += ["--faults", arguments.faults]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()

    def counts(self):
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/statistics") as reply:
            return json.load(reply)

    def end(self):
        self.process.kill()
        self.process.wait()


def prepare(folder, endpoint):
    with open(folder / "characters.jsonl", "w") as file:
        for number in range(200):
            persona = f"A keeper of lighthouse number {number} who counts ships"
            file.write(json.dumps({"persona": persona, "name": f"Keeper {number}", "license": "CC0-1.0"}) + "\n")
    with open(folder / "instructions.jsonl", "w") as file:
        for number in range((arguments.calls + 2) // 3):
            file.write(json.dumps({"question": f"What did you see on day {number} of the voyage?"}) + "\n")
    (folder / "models.toml").write_text(
        f'[models.teacher]\nprovider = "openai"\nmodel = "made-up"\nbase_url = "{endpoint.url}"\n'
        f"max_in_flight = {arguments.in_flight}\n"
    )
    return [
        arguments.opencharacter, "dialogues", "--characters", folder / "characters.jsonl", "--instructions",
        folder / "instructions.jsonl", "--models", folder / "models.toml", "--out", folder / "dialogues.jsonl",
    ]


def run(command):
    subprocess.run(command, check=True, capture_output=True)


with tempfile.TemporaryDirectory() as temporary:
    alone, killed = pathlib.Path(temporary, "alone"), pathlib.Path(temporary, "killed")
    for folder in (alone, killed):
        folder.mkdir()
    endpoint = Endpoint()
    command = prepare(alone, endpoint)
    started = time.time()
    run(command)
    seconds = time.time() - started
    undisturbed = endpoint.counts()
    endpoint.end()

    endpoint = Endpoint()
    command = prepare(killed, endpoint)
    kills = 0
    while kills < arguments.kills and not (killed / "dialogues.jsonl").exists():
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Shorter than what is left of the work, and anything from the first moment on.
        time.sleep(draw.uniform(0.0, 2.2 * seconds / arguments.kills))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    run(command)
    counts = endpoint.counts()
    rows = [json.loads(line) for line in open(killed / "dialogues.jsonl")]
    hashes = [hashlib.sha256((folder / "dialogues.jsonl").read_bytes()).hexdigest() for folder in (alone, killed)]
    check = subprocess.run([arguments.opencharacter, "ledger", "verify", killed / "dialogues.jsonl.ledger", "--json"],
                           check=True, capture_output=True, text=True)
    before = counts["requests"]
    run(command)
    again = endpoint.counts()["requests"] - before
    endpoint.end()

repeated = counts["answered"] - counts["different"]
result = {
    "kills": kills,
    "rows": len(rows),
    "different_rows": len({row["dialogue_id"] for row in rows}),
    "same_file_as_undisturbed": hashes[0] == hashes[1],
    "questions_answered": counts["different"],
    "answers_repeated": repeated,
    "most_that_kills_may_repeat": kills * arguments.in_flight,
    "requests": counts["requests"],
    "requests_undisturbed": undisturbed["requests"],
    "requests_of_a_further_run": again,
    "ledger": {key: value for key, value in json.loads(check.stdout).items() if key in ("records", "keys", "repeated_calls", "damage")},
}
print(json.dumps(result, indent=1))
fine = (result["same_file_as_undisturbed"] and len(rows) == result["different_rows"] and again == 0
        and repeated <= result["most_that_kills_may_repeat"] and kills == arguments.kills)
sys.exit(0 if fine else 1)
