"""Every quantization method at its published bit-widths, on several tasks, under equal conditions.

    python benchmarks/quantize.py --data DIR [--teachers DIR] [--tasks sst2 mrpc ag_news] [--only NAME ...] [--seeds 0]

Each entry compresses the task's pinned teacher (benchmarks/teachers.py) with a shipped recipe in profile ``small``;
the packed artifact is loaded from disk again and scored on the whole validation split in PyTorch, which for 8-bit
activations is the simulation that the exported integer graphs agree with.  Interrupted runs go on, finished ones are
kept, a failure is written down and gone round.  Writes results/quantize.json, .md and .html.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from bertpress import tasks
from bertpress.artifact.header import inspect
from bertpress.artifact.manifest import WEIGHTS
from bertpress.errors import BertpressError
from bertpress.measure.environment import environment
from bertpress.measure.size import size
from bertpress.outcome import scores
from bertpress.recipe import Recipe
from bertpress.report import sensitivity_page
from bertpress.runner import Pressed, Request, press
from bertpress.training.progress import Meter

CACHE = Path.home() / ".cache" / "bertpress"
TASKS = ("sst2", "mrpc", "ag_news")

# name of the row -> recipe, and what differs from its profile `small`
ENTRIES: dict[str, tuple[str, dict[str, Any]]] = {
    "linear, 8 bits": ("linear-ptq", {}),
    "linear, 8 bits, one scale a matrix": ("linear-ptq", {"stages.0.use.0.granularity": "tensor"}),
    "linear, 4 bits in groups of 64": (
        "linear-ptq",
        {"stages.0.use.0.bits": 4, "stages.0.use.0.granularity": "group", "stages.0.use.0.group": 64},
    ),
    "static int8": ("int8", {}),
    "SmoothQuant int8": ("smoothquant", {}),
    "Q8BERT": ("q8bert", {}),
    "GOBO, 3 bits, embeddings 4": ("gobo", {}),
    "GOBO, 4 bits, embeddings 4": ("gobo", {"stages.0.use.0.bits": 4}),
    "GPTQ, 4 bits": ("gptq", {"stages.0.use.0.bits": 4}),
    "GPTQ, 3 bits": ("gptq", {"stages.0.use.0.bits": 3}),
    "AdaptivFloat, 8 bits": ("adaptivfloat", {}),
    "AdaptivFloat, 6 bits": ("adaptivfloat", {"stages.0.use.0.bits": 6}),
    "AdaptivFloat, 5 bits": ("adaptivfloat", {"stages.0.use.0.bits": 5}),
    "AdaptivFloat, 4 bits": ("adaptivfloat", {"stages.0.use.0.bits": 4}),
    "Q-BERT, mixed 2 and 4 bits": (
        "qbert",
        {"stages.0.use.0.low_bits": 2, "stages.0.use.0.samples": 4, "stages.0.use.0.sentences": 16},
    ),
    "Q-BERT, 4 bits": ("qbert", {}),
    "Q-BERT, 2 bits": ("qbert", {"stages.0.use.0.bits": 2}),
    "fixed point": ("fixed-point", {}),
    "Quant-Noise, product codes": ("quant-noise", {}),
    "TernaryBERT": ("ternarybert", {}),
    "BinaryBERT": ("binarybert", {}),
}
# the survey's claim that embeddings are the more sensitive part: each alone, and both
SENSITIVITY = {
    f"sensitivity: {part}, {bits} bits": (
        "linear-ptq",
        {
            "stages.0.use.0.bits": 32 if part == "embeddings" else bits,
            "stages.0.use.0.embedding_bits": 32 if part == "encoder" else bits,
        },
    )
    for part in ("embeddings", "encoder", "both")
    for bits in (8, 6, 5, 4, 3, 2)
}


def teacher_of(task: str, folder: Path) -> Path:
    """The pinned teacher of a task, as benchmarks/teachers.py left it."""
    found = sorted(folder.glob(f"minilm-l6-{task}-*/model"))
    if not found:
        raise SystemExit(f"{folder}: no teacher for {task}; run benchmarks/teachers.py minilm-l6-{task} first")
    return found[-1]


def bits_a_weight(artifact: Path) -> float:
    """Stored bits, scales and codebooks included, over the number of weights."""
    listing = inspect(artifact / WEIGHTS)
    return 8 * sum(listing.bytes().values()) / listing.elements


def run(name: str, task: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One entry on one task, or what is known of it."""
    recipe_name, changes = (ENTRIES | SENSITIVITY)[name]
    place = options.out / task / f"{name.replace(': ', '-').replace(', ', '-').replace(' ', '-').lower()}-{seed}"
    known = place / "entry.json"
    if known.is_file():
        return json.loads(known.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    overrides = [f"{path}={json.dumps(value)}" for path, value in changes.items()]
    recipe = Recipe.load(recipe_name, profile="small", overrides=[*overrides, "export=[]"])
    request = Request(
        teacher_of(task, options.teachers), recipe, tasks.resolve(task), place, options.data, seed=seed,
        resume=(place / "run.json").is_file(), command=" ".join(["python", *sys.argv]),
    )  # fmt: skip
    began = time.monotonic()
    made = press(request, lambda line: print(f"{task}, {name}: {line}", file=sys.stderr, flush=True))
    seconds = sum(stage["seconds"] for stage in made.stages)
    entry = {"name": name, "task": task, "seed": seed, "recipe": recipe.to_dict(), **figures(request, made)}
    entry |= {"seconds": seconds, "wall_seconds": time.monotonic() - began}
    known.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
    return entry


def figures(request: Request, made: Pressed) -> dict[str, Any]:
    """Sizes and scores, all from the files on disk."""
    truth = tasks.references(made.data.task, made.data.validation)
    answers = {
        which: made.folder.once(f"measured/{which}.json", lambda a=part: scores(request, made.data, a, "torch", truth))  # type: ignore[misc]
        for which, part in (("baseline", made.baseline), ("artifact", made.artifact))
    }
    predictions = [answers[which]["predictions"] for which in ("baseline", "artifact")]
    teacher = size(made.baseline.path)
    return {
        "baseline": answers["baseline"]["metric"],
        "metric": answers["artifact"]["metric"],
        "drop": tasks.drop(made.data.task, *predictions, truth, seed=request.seed).model_dump(mode="json"),
        **size(made.artifact.path).as_keys(teacher.weight_bytes),
        "percent_without_embeddings": 100
        * (size(made.artifact.path).weight_bytes_without_embeddings or 0)
        / (teacher.weight_bytes_without_embeddings or 1),
        "bits_a_weight": bits_a_weight(made.artifact.path),
        "stages": [{key: stage.get(key) for key in ("name", "seconds", "bits")} for stage in made.stages],
    }


def table(entries: list[dict[str, Any]]) -> str:
    """Markdown: one row a method, one group of columns a task; means where there are several seeds."""
    named = [task for task in TASKS if any(entry["task"] == task for entry in entries)]
    head = ["method", "file", "% of teacher", "% without embeddings", "bits a weight"]
    head += [f"{task}: metric, drop [95 %], seconds" for task in named]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in [*ENTRIES, *SENSITIVITY]:
        mine = [entry for entry in entries if entry["name"] == name and "error" not in entry]
        if not mine:
            continue
        first = mine[0]
        cells = [name, f"{first['weight_bytes'] / 1e6:.1f} MB", f"{first['percent_of_teacher']:.1f}"]
        cells += [f"{first['percent_without_embeddings']:.1f}", f"{first['bits_a_weight']:.2f}"]
        for task in named:
            runs = [entry for entry in mine if entry["task"] == task]
            if not runs:
                cells.append("not run")
                continue
            metric = sum(run["metric"]["value"] for run in runs) / len(runs)
            drop = sum(run["drop"]["value"] for run in runs) / len(runs)
            spread = f"[{min(r['drop']['low'] for r in runs):.1f}, {max(r['drop']['high'] for r in runs):.1f}]"
            seeds = f", {len(runs)} seeds" if len(runs) > 1 else ""
            seconds = sum(run["seconds"] for run in runs) / len(runs)
            cells.append(f"{metric:.1f}, {drop:+.1f} {spread}, {seconds:.0f}{seeds}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run what is asked for; results are written after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teachers", type=Path, default=CACHE / "teachers")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="rows; all, sensitivity included, if none is given")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/quantize"))
    parser.add_argument("--results", type=Path, default=Path("results/quantize.json"))
    options = parser.parse_args()
    names = [*ENTRIES, *SENSITIVITY]
    if unknown := sorted(set(options.only or ()) - set(names)):
        parser.error(f"unknown row {unknown[0]!r}; known: {', '.join(names)}")
    wanted = [(name, task, seed) for seed in options.seeds for task in options.tasks for name in options.only or names]
    meter = Meter("quantize")
    meter.start(len(wanted), 0)
    for count, (name, task, seed) in enumerate(wanted, start=1):
        try:
            run(name, task, seed, options)
        except (BertpressError, RuntimeError, ValueError, MemoryError) as error:
            print(f"{task}, {name}: FAILED, {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        meter.show(count)
        write(options)
    meter.stop()
    return 0


def write(options: argparse.Namespace) -> None:
    """Results of every run that has ended so far, of this command and of earlier ones."""
    entries = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(options.out.glob("*/*/entry.json"))]
    content = {"entries": entries, "environment": environment(), "command": " ".join(["python", *sys.argv])}
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    options.results.with_suffix(".md").write_text(table(entries), encoding="utf-8")
    options.results.with_suffix(".html").write_text(sensitivity_page(entries), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
