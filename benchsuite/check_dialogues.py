"""Makes dialogues against a made-up endpoint and reads them as others would: with Hugging Face's `datasets`, with
LLaMA-Factory's own loader, and again through the paper's released schema.

Usage: check_dialogues.py --opencharacter BINARY --work FOLDER [--dialogues 2000]

Needs `pip install datasets torch transformers peft trl omegaconf einops tyro fire scipy tiktoken av` and
`pip install --no-deps llamafactory`. Prints one JSON document; fails where a row or a word differs.
"""

import argparse
import importlib.machinery
import json
import os
import pathlib
import subprocess
import sys
import types

# LLaMA-Factory's own switch: a newer transformers than it knows reads data all the same.
os.environ.setdefault("DISABLE_VERSION_CHECK", "1")
import transformers  # noqa: F401  (before the next lines: it looks for sound libraries when it is imported)
from datasets import load_dataset

# LLaMA-Factory imports torchaudio for data with sound, of which there is none here; it needs to exist, no more.
sound = types.ModuleType("torchaudio")
sound.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
sys.modules.setdefault("torchaudio", sound)
from llamafactory.data.loader import _load_single_dataset  # noqa: E402
from llamafactory.data.parser import get_dataset_list  # noqa: E402
from llamafactory.hparams import DataArguments, ModelArguments  # noqa: E402

parser = argparse.ArgumentParser()
parser.add_argument("--opencharacter", required=True)
parser.add_argument("--work", required=True, type=pathlib.Path)
parser.add_argument("--dialogues", type=int, default=2000)
arguments = parser.parse_args()
run = arguments.work / "run"
run.mkdir(parents=True, exist_ok=True)


def opencharacter(*line):
    command = [arguments.opencharacter, *map(str, line)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def check(claim, what):
    if not claim:
        sys.exit(f"differs: {what}")


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


opencharacter("bench", "synth", "--dialogues", arguments.dialogues, "--out", run)
ours = read(run / "dialogues.jsonl")
characters = {row["character_id"]: row for row in read(run / "characters.jsonl")}
check(len({row["dialogue_id"] for row in ours}) == len(ours) >= arguments.dialogues, "the number of rows")
given = ("--dialogues", run / "dialogues.jsonl", "--characters", run / "characters.jsonl")

# Hugging Face's datasets.
opencharacter("query", "SELECT * FROM d", "--table", f"d={run}/dialogues.jsonl", "--out", run / "dialogues.parquet")
for kind, name in [("json", "dialogues.jsonl"), ("parquet", "dialogues.parquet")]:
    rows = load_dataset(kind, data_files=str(run / name), split="train", cache_dir=str(arguments.work / "cache"))
    check(len(rows) == len(ours), f"rows of {name}")
    for row, own in zip(rows, ours):
        check(row["messages"] == own["messages"], f"{name}, {own['dialogue_id']}: messages")
        for key in ("dialogue_id", "character_id", "question_source", "strategy"):
            check(row[key] == own[key], f"{name}, {own['dialogue_id']}: {key}")

# LLaMA-Factory.
folder = arguments.work / "llama_factory"
opencharacter("export", "--to", "llama-factory", *given, "--out", folder)
data = DataArguments(dataset="opencharacter", dataset_dir=str(folder), template="chatml")
attributes = get_dataset_list(["opencharacter"], str(folder))[0]
training = transformers.TrainingArguments(output_dir=str(arguments.work / "training"), use_cpu=True)
aligned = _load_single_dataset(attributes, ModelArguments(model_name_or_path="none"), data, training)
check(len(aligned) == len(ours), "LLaMA-Factory's rows")
for row, own in zip(aligned, ours):
    said = [(turn["role"], turn["content"]) for turn in [*row["_prompt"], *row["_response"]]]
    check(said == [(turn["role"], turn["content"]) for turn in own["messages"]], f"{own['dialogue_id']} as aligned")
    character = characters[own["character_id"]]
    check(character["persona"] in row["_system"] and character["personality"] in row["_system"], "a system prompt")

# The paper's schema, there and back.
paper = arguments.work / "paper"
opencharacter("export", "--to", "paper", *given, "--out", paper)
released = read(paper / "synthetic_dialogue.jsonl")
check(
    [(row["question"], row["character_answer"]) for row in released]
    == [(own["messages"][0]["content"], own["messages"][1]["content"]) for own in ours],
    "the paper's questions and answers",
)
back = arguments.work / "back"
opencharacter(
    *("export", "--to", "openai", "--dialogues", paper / "synthetic_dialogue.jsonl"),
    *("--characters", paper / "synthetic_character.jsonl", "--out", back),
)
straight = arguments.work / "straight"
opencharacter("export", "--to", "openai", *given, "--out", straight)


def spoken(path):
    rows = read(path / "dialogues.jsonl")
    return [[turn for turn in row["messages"] if turn["role"] != "system"] for row in rows]


check(spoken(back) == spoken(straight), "what comes back from the paper's schema")
print(json.dumps({"rows": len(ours), "datasets": "equal", "llama_factory": len(aligned), "paper": "equal"}))
