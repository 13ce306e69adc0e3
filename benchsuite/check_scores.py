"""Reads what `eval` writes for other programs with those programs, and compares it with scores.json.

Usage: check_scores.py DIR...      (pip install inspect_ai lm_eval)
"""

import json
import pathlib
import sys

for folder in map(pathlib.Path, sys.argv[1:]):
    scores = json.loads((folder / "scores.json").read_text())
    means = [task["estimate"] and task["estimate"]["mean"] for task in scores["tasks"]]

    try:
        from inspect_ai.log import read_eval_log
    except ImportError:
        print("inspect_ai is not installed")
    else:
        log = read_eval_log(str(folder / "inspect.json"))
        items = [json.loads(line) for line in open(folder / "items.jsonl")]
        assert log.status == "success" and len(log.samples) == len(items)
        for sample, item in zip(log.samples, items):
            assert sample.id == item["item_id"] and sample.input[-1].content == item["messages"][-1]["content"]
            if item["answer"]["status"] == "answered":
                assert sample.output.completion == item["answer"]["text"]
            value = sample.scores[item["task"]].value if sample.scores else None
            assert value == item.get("value"), (value, item.get("value"))
        for score, mean in zip(log.results.scores, means, strict=True):
            assert score.metrics["mean"].value == mean if mean is not None else not score.metrics
        print(f"{folder}: inspect_ai reads {len(log.samples)} samples and {len(log.results.scores)} scores")

    try:
        from lm_eval.utils import make_table
    except ImportError:
        print("lm_eval is not installed")
    else:
        results = json.loads((folder / "lm_eval.json").read_text())
        table = make_table(results)
        for mean in means:
            # The table rounds to four places, and leaves out zeros at the end.
            numbers = [float(cell) for cell in table.replace("|", " ").split() if cell.replace(".", "", 1).isdigit()]
            assert mean is None or any(abs(number - mean) < 6e-5 for number in numbers), (mean, table)
        print(table)
