"""Makes answers with Bespoke Curator and with opencharacter against the same made-up endpoint, which answers at once,
and compares requests per second and processor time.

Usage: compare_synth.py --opencharacter BINARY [--curator-requests 2000] [--dialogues 30000] [--repeats 3]

Needs `pip install bespokelabs-curator` (which counts tokens with a vocabulary that its library litellm brings along). Each side gets an endpoint of its own, in a process of its own, and 256
requests in flight at most; the two take turns, and the medians count. Prints one JSON document.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec

CURATOR = """
import resource, sys, time
from datasets import Dataset
from bespokelabs import curator

url, count = sys.argv[1], int(sys.argv[2])

class Answer(curator.LLM):
    def prompt(self, row):
        return [{"role": "system", "content": row["system"]}, {"role": "user", "content": row["question"]}]

    def parse(self, row, response):
        return {"question": row["question"], "answer": response}

system = "You are a keeper of a lighthouse who counts ships. " * 30
rows = Dataset.from_list([{"system": system, "question": f"Question {n}: what did you see?"} for n in range(count)])
limits = {"max_requests_per_minute": 10**8, "max_tokens_per_minute": 10**12, "max_concurrent_requests": 256}
model = Answer(model_name="made-up", backend="openai", backend_params={"base_url": url, "api_key": "none", **limits})
started = time.monotonic()
answers = model(rows)
seconds = time.monotonic() - started
answers = getattr(answers, "dataset", answers)
used = resource.getrusage(resource.RUSAGE_SELF)
print("RESULT", len(answers), seconds, used.ru_utime + used.ru_stime, used.ru_maxrss)
"""

parser = argparse.ArgumentParser()
parser.add_argument("--opencharacter", required=True)
parser.add_argument("--curator-requests", type=int, default=2000)
parser.add_argument("--dialogues", type=int, default=30000)
parser.add_argument("--repeats", type=int, default=3)
arguments = parser.parse_args()


def curator():
    endpoint = subprocess.Popen([arguments.opencharacter, "bench", "endpoint"], stdout=subprocess.PIPE, text=True)
    url = endpoint.stdout.readline().strip()
    with tempfile.TemporaryDirectory() as folder:
        script = pathlib.Path(folder, "answers.py")
        script.write_text(CURATOR, encoding="utf-8")
        vocabulary = pathlib.Path(find_spec("litellm").origin).parent / "litellm_core_utils" / "tokenizers"
        environment = dict(os.environ, CURATOR_CACHE_DIR=folder, CURATOR_DISABLE_RICH_DISPLAY="1", TELEMETRY_ENABLED="0")
        environment["TIKTOKEN_CACHE_DIR"] = str(vocabulary)
        command = [sys.executable, script, url, str(arguments.curator_requests)]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    endpoint.kill()
    endpoint.wait()
    results = [line.split() for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not results or int(results[0][1]) != arguments.curator_requests:
        sys.exit(f"Curator gave no result: {done.stderr[-3000:]}")
    seconds, cpu, kilobytes = map(float, results[0][2:])
    rate = arguments.curator_requests / seconds
    return {"per_second": rate, "cpu_per_1000": cpu * 1000 / arguments.curator_requests, "peak_mib": kilobytes / 1024}


def ours():
    command = [arguments.opencharacter, "bench", "synth", "--dialogues", str(arguments.dialogues), "--json"]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
    return {
        "per_second": report["requests_per_second"],
        "cpu_per_1000": report["cpu_seconds_per_1000_requests"],
        "peak_mib": report["peak_resident_bytes"] / 2**20,
    }


runs = []
for _ in range(arguments.repeats):
    runs.append({"curator": curator(), "opencharacter": ours()})
    time.sleep(1)
median = {
    side: {key: statistics.median(run[side][key] for run in runs) for key in runs[0][side]} for side in runs[0]
}
ratio = median["opencharacter"]["per_second"] / median["curator"]["per_second"]
print(json.dumps({"runs": runs, "median": median, "requests_per_second_ratio": ratio}))
