"""What pruning without any training saves on top of 8-bit integers, what it costs, and how long it takes.

    python benchmarks/retraining_free.py --data DIR [--model mpnet-base] [--task sst2] [--keep 0.65] [--threads 2]

The pinned teacher (benchmarks/teachers.py) is quantized by ``quantize/int8`` as it is, and after ``prune/fisher`` under
a budget of time measured on OpenVINO in 8-bit integers, at the median length of the texts that are timed: those that
are learnt from may be much shorter, as the phrases of ``sst2`` are, and a budget at their length cuts what longer texts
do not wait for.  Least squares move whole weights.  Both run by turns at batch 1 on the validation texts; the drop is
that of the pruned integers from the float teacher, as a paired bootstrap over the whole validation split, and beside it
that of integers alone.  Writes results/retraining_free.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from comparison import CACHE, save_timings, teacher_of, timed

from bertpress import artifact, tasks
from bertpress.measure.environment import usable_cores
from bertpress.outcome import scores
from bertpress.recipe import Recipe
from bertpress.runner import Pressed, Request, press
from bertpress.search.rows import median_tokens

SPEED_BAR, AIM, DROP_BAR, SECONDS_BAR = 1.3, 1.6, 1.0, 300.0
PRUNE = {"budget": "latency", "engine": "openvino", "tune": "weights", "damping": 0.1, "examples": 2048}


def made(recipe: Recipe, teacher: Path, place: Path, options: argparse.Namespace) -> tuple[Request, Pressed]:
    """The teacher, compressed; goes on with what is there."""
    request = Request(
        teacher, recipe, tasks.resolve(options.task), place, options.data, resume=(place / "run.json").is_file()
    )
    return request, press(request, lambda line: print(f"{place.name}: {line}", file=sys.stderr, flush=True))


def figures(request: Request, pressed: Pressed, baseline: list[Any], truth: list[Any]) -> dict[str, Any]:
    """Score, drop from the teacher, seconds of each stage, and the shape that is left."""
    found = scores(request, pressed.data, pressed.artifact, "torch", truth)
    drop = tasks.drop(pressed.data.task, baseline, found["predictions"], truth, seed=request.seed)
    layers = pressed.artifact.blueprint.layers
    return {
        "metric": found["metric"],
        "drop": drop.model_dump(mode="json"),
        "seconds": {stage["name"]: stage["seconds"] for stage in pressed.stages},
        "heads": [len(layer.attention.heads) for layer in layers],
        "neurons": [sum(layer.ffn) for layer in layers],
        "parameters": pressed.artifact.blueprint.total_parameters,
    }


def main() -> int:
    """Quantize, prune and quantize, score, time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teachers", type=Path, default=CACHE / "teachers")
    parser.add_argument("--model", default="mpnet-base")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--keep", type=float, default=0.65)
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="other fields of prune/fisher")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--out", type=Path, default=Path("runs/retraining_free"))
    parser.add_argument("--results", type=Path, default=Path("results/retraining_free.json"))
    options = parser.parse_args()
    teacher = teacher_of(options.task, options.teachers, options.model)
    read = artifact.load(teacher)
    assert read.task is not None
    tokens = median_tokens(read.tokenizer, read.task, tasks.load(read.task, "validation", options.data))
    fields = {**PRUNE, "keep": options.keep, "tokens": tokens}
    changes = [f"stages.prune.use.0.{name}={json.dumps(value)}" for name, value in fields.items()]
    changes += [f"stages.prune.use.0.{item}" for item in options.set]
    export = 'export=["openvino"]'
    recipes = {
        "int8": Recipe.load("int8", profile="small", overrides=[export]),
        "fisher": Recipe.load("fisher", profile="small", overrides=[*changes, export]),
    }
    places = {
        "int8": options.out / f"{options.model}-{options.task}-int8",
        "fisher": options.out / f"{options.model}-{options.task}-fisher-{options.keep:g}",
    }
    runs = {name: made(recipe, teacher, places[name], options) for name, recipe in recipes.items()}
    request, first = runs["int8"]
    truth = tasks.references(first.data.task, first.data.validation)
    baseline = scores(request, first.data, first.baseline, "torch", truth)
    rows = {name: figures(*run, baseline["predictions"], truth) for name, run in runs.items()}
    pair = {name: pressed.artifact.path for name, (_, pressed) in runs.items()}
    times = timed(pair, options.task, options.data, options.threads)
    speed, found = times["fisher"]["speedup"], rows["fisher"]
    checked = [
        {
            "name": "int8 over pruned int8",
            "required": SPEED_BAR,
            "aim": AIM,
            "measured": speed,
            "met": speed >= SPEED_BAR,
        },
        {"name": "points lost", "required": DROP_BAR, "measured": found["drop"]["value"]},
        {"name": "seconds of prune/fisher", "required": SECONDS_BAR, "measured": found["seconds"]["prune"]},
    ]
    for bar in checked[1:]:
        bar["met"] = bar["measured"] <= bar["required"]
    for bar in checked:
        verdict = "met" if bar["met"] else "MISSED"
        print(f"{bar['name']}: {bar['measured']:.3f}, bar {bar['required']}: {verdict}", file=sys.stderr)
    content = {
        "model": options.model,
        "task": options.task,
        "teacher": baseline["metric"],
        "rows": rows,
        "timing": times,
    }
    save_timings(options.results, {**content, "recipe": recipes["fisher"].to_dict(), "bars": checked}, options.threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
