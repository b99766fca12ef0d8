"""One command on five kinds of task: each ends in an artifact that every engine scores from disk, and agrees on.

    python benchmarks/tasks.py --model DIR --data DIR [--teachers DIR] [--out DIR] [--train-limit N] [TASK ...]

For each task: ``bertpress compress`` with recipe ``quick`` of the task's pinned teacher (benchmarks/teachers.py), or of
the model where there is none, then ``bertpress evaluate`` on torch, ONNX Runtime and OpenVINO.  Agreement: labels of
the int8 files against their own simulation, and logits of the uncompressed model's exports against the model in memory.
Beside the first stands what the simulation agrees with itself on where one weight is off by a millionth, which is the
most that two engines can agree on.  Interrupted runs go on.  Writes results/tasks.json, tasks of earlier commands
included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from comparison import CACHE
from provenance import made_on

from bertpress import artifact, tasks
from bertpress.artifact import Artifact
from bertpress.export.parity import parity, repeatability
from bertpress.training import collate_for

TASKS = ("sst2", "mrpc", "stsb", "wnut17", "squad")
ENGINES = ("torch", "onnxruntime", "openvino")
ROWS = {"squad": (2000, 1000)}  # train and validation rows where a task is slow; its texts are long
KEPT = ("metric", "drop", "speedup", "weight_bytes", "percent_of_teacher", "parity")


def bertpress(*arguments: str) -> Any:
    """Run the command line; its one JSON object."""
    line = [sys.executable, "-m", "bertpress", *arguments, "--json"]
    return json.loads(subprocess.run(line, stdout=subprocess.PIPE, check=True, text=True).stdout)


def real_batches(made: Artifact, data: Path, rows: int) -> list[dict[str, Any]]:
    """Padded batches of validation rows."""
    assert made.task is not None
    encoded = tasks.encode(made.task, tasks.load(made.task, "validation", data, rows), made.tokenizer, training=False)
    collate, size = collate_for(made.tokenizer), 16
    return [
        collate([encoded[i] for i in range(at, min(at + size, len(encoded)))]) for at in range(0, len(encoded), size)
    ]


def float_agreement(teacher: Path, data: Path, rows: int) -> dict[str, Any]:
    """Largest difference of logits between the uncompressed model in memory and its exports, on real rows."""
    made = artifact.load(teacher)
    for runtime in ("openvino", "onnx"):
        if not (teacher / runtime).is_dir():
            made.export(runtime)
    batches = real_batches(made, data, rows)
    return {engine: asdict(parity(made.model, teacher, engine, batches)) for engine in ENGINES[1:]}


def own_agreement(pressed: Path, data: Path, rows: int) -> dict[str, Any]:
    """What the simulation of the compressed model agrees with itself on, one of its weights off by a millionth."""
    made = artifact.load(pressed)
    return asdict(repeatability(made.model, real_batches(made, data, rows)))


def run(task: str, options: argparse.Namespace) -> dict[str, Any]:
    """Compress and evaluate one task."""
    out = options.out / task
    rows, scored_rows = ROWS.get(task, (options.train_limit, None))
    pinned = sorted(options.teachers.glob(f"minilm-l6-{task}-*/model"))
    line = [
        "compress",
        str(pinned[-1] if pinned else options.model),
        "--recipe",
        "quick",
        "--task",
        task,
        "--data",
        str(options.data),
    ]
    line += ["--train-limit", str(rows), "--out", str(out)]
    line += ["--validation-limit", str(scored_rows)] if scored_rows else []
    line += ["--resume"] if (out / "run.json").is_file() else []
    results = bertpress(*line)
    scored = {}
    for engine in ENGINES:
        limit = ["--limit", str(scored_rows)] if scored_rows else []
        arguments = ["evaluate", str(out / "model"), "--task", task, "--data", str(options.data), "--engine", engine]
        scored[engine] = bertpress(*arguments, *limit)["metric"]
    engines = results["artifact"]["engines"]
    return {
        "task": task,
        "baseline": results["baseline"]["metric"],
        "engines": {engine: {key: figures[key] for key in KEPT} for engine, figures in engines.items()},
        "evaluated_from_disk": scored,
        "float_exports": float_agreement(out / "teacher", options.data, 300),
        "simulation_with_itself": own_agreement(out / "model", options.data, 300),
        "command": results["command"].replace(str(Path.home()), "~"),
    }


def main() -> int:
    """Run the tasks that are named, or all five."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", default=list(TASKS))
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teachers", type=Path, default=CACHE / "teachers")
    parser.add_argument("--out", type=Path, default=Path("runs/tasks"))
    parser.add_argument("--train-limit", type=int, default=4000)
    parser.add_argument("--results", type=Path, default=Path("results/tasks.json"))
    options = parser.parse_args()
    made: dict[str, dict[str, Any]] = {}
    if options.results.is_file():
        made = {entry["task"]: entry for entry in json.loads(options.results.read_text(encoding="utf-8"))["tasks"]}
    for task in options.tasks:
        made[task] = run(task, options)
        content = {"tasks": list(made.values()), **made_on(seed=0)}
        options.results.parent.mkdir(parents=True, exist_ok=True)
        options.results.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(f"{task}: {made[task]['baseline']} -> {made[task]['engines']}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
