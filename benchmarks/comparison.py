"""What the tables of this folder share: many recipes on several tasks and seeds, under equal conditions.

Each row compresses the task's pinned teacher (benchmarks/teachers.py) with a shipped recipe in profile ``small``; the
packed artifact is loaded from disk again and scored on the whole validation split in PyTorch, which for 8-bit
activations is the simulation that the exported integer graphs agree with.  Interrupted runs go on, finished ones are
kept, a failure is written down and gone round.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from provenance import command, made_on

from bertpress import artifact, tasks
from bertpress.artifact.header import inspect
from bertpress.artifact.manifest import WEIGHTS
from bertpress.errors import BertpressError, Interrupted
from bertpress.measure.bench import Candidate, interleave
from bertpress.measure.environment import environment, usable_cores
from bertpress.measure.size import size
from bertpress.measure.statistics import rounded
from bertpress.outcome import ENGINES, scores, texts_of
from bertpress.recipe import Recipe
from bertpress.runner import Pressed, Request, press
from bertpress.training.progress import Meter

CACHE = Path.home() / ".cache" / "bertpress"
LIMITS = {"squad": (2000, 1000), "mnli": (None, 3000)}  # train and validation rows where all would take long
TIMED_TEXTS, ROUNDS = 128, 12
LENGTHS = (16, 32, 48, 64, 96, 128)  # that get graphs of their own on OpenVINO, where that is timed
TOKENS = 32  # that multiply-accumulates are counted for

Start = Literal["teacher", "pretrained"]
Runtime = Literal["openvino", "onnx"]


@dataclass(frozen=True)
class Row:
    """A line of a table: a recipe, and what differs from its profile ``small``.

    Attributes:
        recipe: a shipped one, the path of another, or its content.
        changes: as ``--set`` takes them.
        start: the model that is compressed: the task's teacher, or the pre-trained model that it was made from, which
            then learns from the teacher or from the labels alone.
        tasks: where the row is run; None: everywhere.
        rows: of the training split at most; None: as the task has it.
        model: the teacher's, as benchmarks/teachers.py names it.
        begins: as another row, whose stages are taken over as far as both are the same.
    """

    recipe: str | Mapping[str, Any]
    changes: Mapping[str, Any] = field(default_factory=dict)
    start: Start = "teacher"
    tasks: tuple[str, ...] | None = None
    rows: int | None = None
    model: str = "minilm-l6"
    begins: str | None = None


def arguments(doc: str | None, known: Sequence[str], name: str) -> argparse.ArgumentParser:
    """The options that all tables have.

    Args:
        doc: of the benchmark.
        known: the tasks that it can run.
        name: of its results.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=CACHE / "models")
    parser.add_argument("--teachers", type=Path, default=CACHE / "teachers")
    parser.add_argument("--tasks", nargs="+", default=list(known), choices=known)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="rows; all if none is given")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs") / name)
    parser.add_argument("--results", type=Path, default=Path(f"results/{name}.json"))
    return parser


def teacher_of(task: str, folder: Path, model: str = "minilm-l6") -> Path:
    """The pinned teacher of a task, as benchmarks/teachers.py left it."""
    found = sorted(folder.glob(f"{model}-{task}-*/model"))
    if not found:
        raise SystemExit(f"{folder}: no teacher for {task}; run benchmarks/teachers.py {model}-{task} first")
    return found[-1]


def place_of(options: argparse.Namespace, name: str, task: str, seed: int) -> Path:
    """The run's folder."""
    words = re.sub(r"[^a-z0-9.]+", "-", name.lower().replace("%", "percent")).strip("-")
    return Path(options.out) / task / f"{words}-{seed}"


def recipe_of(row: Row) -> Recipe:
    """What a row runs; the caller exports, if anything."""
    overrides = [f"{path}={json.dumps(value)}" for path, value in row.changes.items()] + ["export=[]"]
    if isinstance(row.recipe, str):
        return Recipe.load(row.recipe, profile="small", overrides=overrides)
    return Recipe.parse(deepcopy(dict(row.recipe)), overrides=overrides)


def compare(rows: Mapping[str, Row], options: argparse.Namespace, write: Callable[[list[dict[str, Any]]], None]) -> int:
    """Run what is asked for; ``write`` gets the entries of all runs so far after each, those of earlier commands too.

    Returns:
        The exit status.
    """
    if unknown := sorted(set(options.only or ()) - set(rows)):
        raise SystemExit(f"unknown row {unknown[0]!r}; known: {', '.join(rows)}")
    wanted = [
        (name, task, seed)
        for seed in options.seeds
        for task in options.tasks
        for name in options.only or rows
        if task in (rows[name].tasks or options.tasks)
    ]
    meter = Meter(options.out.name)
    meter.start(len(wanted), 0)
    for count, (name, task, seed) in enumerate(wanted, start=1):
        try:
            run(name, rows[name], task, seed, options)
        except Interrupted:
            meter.stop()
            return 130
        except (BertpressError, RuntimeError, ValueError, MemoryError) as error:
            print(f"{task}, {name}: FAILED, {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        meter.show(count)
        write(entries_of(options))
    meter.stop()
    return 0


def run(name: str, row: Row, task: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One row on one task, or what is known of it."""
    place = place_of(options, name, task, seed)
    told = place / "entry.json"
    if told.is_file():
        return json.loads(told.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    recipe = recipe_of(row)
    trained, scored_rows = LIMITS.get(task, (None, None))
    teacher = teacher_of(task, options.teachers, row.model)
    pretrained = options.models / row.model
    resumed = (place / "run.json").is_file()
    alike = None if row.begins is None else place_of(options, row.begins, task, seed)
    known = alike if alike is not None and (alike / "stages").is_dir() else None
    request = Request(
        teacher if row.start == "teacher" else pretrained, recipe, tasks.resolve(task), place, options.data,
        teacher=None if row.start == "teacher" else teacher, seed=seed, resume=resumed,
        command=command(), train_limit=row.rows or trained, validation_limit=scored_rows,
        known=known,
    )  # fmt: skip
    began, worked = time.monotonic(), time.process_time()
    made = press(request, lambda line: print(f"{task}, {name}: {line}", file=sys.stderr, flush=True))
    # of a resumed run, or stages taken over, no more is known than what ``seconds`` says of the last process
    whole = {"processor_seconds": time.process_time() - worked, "wall_seconds": time.monotonic() - began}
    spent = {} if resumed or known is not None else whole
    machine = environment(seed=seed)
    found = figures(request, made, options.out / task / f"baseline-{row.model}.json")
    entry = {"name": name, "task": task, "seed": seed, "recipe": recipe.to_dict(), **found, **spent}
    entry |= {"load_average": machine["load_average"], "command": request.command}
    told.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
    return entry


def figures(request: Request, made: Pressed, baseline: Path) -> dict[str, Any]:
    """Sizes and scores, all from the files on disk.

    Args:
        request: of the run.
        made: by it.
        baseline: where the scores of the task's teacher are kept, which all rows share.
    """
    truth = tasks.references(made.data.task, made.data.validation)
    if not baseline.is_file():
        found = scores(request, made.data, made.baseline, "torch", truth)
        baseline.write_text(json.dumps(found) + "\n", encoding="utf-8")
    answers = {
        "baseline": json.loads(baseline.read_text(encoding="utf-8")),
        "artifact": scores(request, made.data, made.artifact, "torch", truth),
    }
    predictions = [answers[which]["predictions"] for which in ("baseline", "artifact")]
    teacher, packed = size(made.baseline.path), size(made.artifact.path)
    without = 100 * (packed.weight_bytes_without_embeddings or 0) / (teacher.weight_bytes_without_embeddings or 1)
    listing = inspect(made.artifact.path / WEIGHTS)
    return {
        "baseline": answers["baseline"]["metric"],
        "metric": answers["artifact"]["metric"],
        "drop": tasks.drop(made.data.task, *predictions, truth, seed=request.seed).model_dump(mode="json"),
        **packed.as_keys(teacher.weight_bytes),
        "percent_without_embeddings": without,
        "bits_a_weight": 8 * sum(listing.bytes().values()) / listing.elements,
        "macs": sum(made.artifact.blueprint.macs(TOKENS).values()),
        "parameters": made.artifact.blueprint.total_parameters,
        "parameters_without_embeddings": made.artifact.blueprint.parameters_without_embeddings,
        "seconds": sum(stage["seconds"] for stage in made.stages),
        "stages": [{key: stage.get(key) for key in ("name", "seconds", "bits")} for stage in made.stages],
    }


def int8_of(model: Path, task: str, options: argparse.Namespace, place: Path) -> Path:
    """The model with 8-bit weights and activations, exported to OpenVINO."""
    recipe = Recipe.load("int8", profile="small", overrides=['export=["openvino"]'])
    request = Request(model, recipe, tasks.resolve(task), place, options.data, resume=(place / "run.json").is_file())
    return press(request).artifact.path


def timed(
    models: Mapping[str, Path], task: str, data: Path, threads: int, runtime: Runtime = "openvino"
) -> dict[str, dict[str, Any]]:
    """Latencies by turns, and ratios to the first, on real texts at batch 1.

    Args:
        models: folders of artifacts by name; those without the file are exported first.
        task: whose validation texts are read.
        data: folder of the tasks.
        threads: of the engine.
        runtime: that all are exported to.
    """
    for folder in models.values():
        if not (folder / runtime).is_dir():
            artifact.load(folder).export(runtime)
    whole = tasks.load(tasks.resolve(task), "validation", data)
    texts = texts_of(tasks.resolve(task), whole.limit(TIMED_TEXTS, 0))
    candidates = [Candidate(which, folder, ENGINES[runtime]) for which, folder in models.items()]
    figures = interleave(candidates, texts, threads=threads, rounds=ROUNDS, throughput_texts=0)
    kept = ("latency_ms", "model_latency_ms", "speedup", "speedup_interval", "peak_memory_bytes")
    return {which: {key: each[key] for key in kept} for which, each in zip(models, figures, strict=True)}


def time_all(
    names: Sequence[str],
    options: argparse.Namespace,
    measure: Callable[[str, str], Mapping[str, Any]],
    write: Callable[[list[dict[str, Any]]], None],
) -> int:
    """Time the artifacts of seed 0 that are there and have not been timed; ``write`` gets all entries after each.

    Args:
        names: of the rows.
        options: of the benchmark.
        measure: from the row and the task to what is kept, in ``timing.json`` of the run's folder.
        write: as in :func:`compare`.

    Returns:
        The exit status.
    """
    for task in options.tasks:
        for name in options.only or names:
            known = place_of(options, name, task, 0) / "timing.json"
            if known.with_name("entry.json").is_file() and not known.is_file():
                print(f"{task}, {name}: timing", file=sys.stderr, flush=True)
                known.write_text(json.dumps(measure(name, task), indent=1) + "\n", encoding="utf-8")
            write(entries_of(options))
    return 0


def train_or_time(
    doc: str | None,
    known: Sequence[str],
    name: str,
    rows: Mapping[str, Row],
    measure: Callable[..., Mapping[str, Any]],
    write: Callable[[argparse.Namespace, list[dict[str, Any]]], None],
    *,
    seeds: Sequence[int] = (0,),
    timed_rows: Sequence[str] | None = None,
) -> int:
    """The command of a table: train what is asked for, or with ``--time`` measure what has been trained.

    Args:
        doc: of the benchmark.
        known: the tasks that it can run.
        name: of its results.
        rows: by the name of the line.
        measure: of a row and a task, with ``options``; see :func:`time_all`.
        write: of the options and all entries, after every run.
        seeds: unless others are asked for.
        timed_rows: names of those that are timed; None: all.

    Returns:
        The exit status.
    """
    parser = arguments(doc, known, name)
    parser.set_defaults(seeds=list(seeds))
    parser.add_argument("--time", action="store_true", help="time the artifacts that are there")
    parser.add_argument("--threads", type=int, default=usable_cores())
    options = parser.parse_args()
    if options.time:
        names = list(rows if timed_rows is None else timed_rows)
        return time_all(names, options, partial(measure, options=options), partial(write, options))
    return compare(rows, options, partial(write, options))


def timing_of(entry: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """What :func:`time_all` measured of a run, under ``timing``; empty where it has not been timed."""
    known = place_of(options, entry["name"], entry["task"], entry["seed"]) / "timing.json"
    return {"timing": json.loads(known.read_text(encoding="utf-8"))} if known.is_file() else {}


def entries_of(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What every run that has ended left, and what the results hold of runs whose folders are gone."""
    known = json.loads(options.results.read_text(encoding="utf-8")) if options.results.is_file() else {}
    found = known.get("entries", [])
    found += [json.loads(path.read_text(encoding="utf-8")) for path in sorted(options.out.glob("*/*/entry.json"))]
    return list({(entry["name"], entry["task"], entry["seed"]): entry for entry in found}.values())


def save(options: argparse.Namespace, content: Mapping[str, Any]) -> None:
    """Write the results with what they were made on."""
    whole = {**content, **made_on()}
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def save_timings(path: Path, content: Mapping[str, Any], threads: int) -> None:
    """Write rounded timings with threads, machine and command."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = rounded({**content, "threads": threads, **made_on(threads=threads, seed=0)})
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def scored(entries: Sequence[Mapping[str, Any]], name: str, task: str) -> str:
    """One cell: metric, drop with the outermost bounds of its intervals, processor seconds; means over the seeds."""
    runs = [entry for entry in entries if entry["name"] == name and entry["task"] == task]
    if not runs:
        return "not run"
    metric, drop = (sum(entry[key]["value"] for entry in runs) / len(runs) for key in ("metric", "drop"))
    low, high = min(entry["drop"]["low"] for entry in runs), max(entry["drop"]["high"] for entry in runs)
    seconds = sum(entry.get("processor_seconds", entry.get("seconds", 0.0)) for entry in runs) / len(runs)
    least = "" if all("processor_seconds" in entry for entry in runs) else "at least "  # some was done before
    seeds = f", {len(runs)} seeds" if len(runs) > 1 else ""
    return f"{metric:.1f}, {drop:+.1f} [{low:.1f}, {high:.1f}], {least}{seconds:.0f}{seeds}"


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    rule = "|---" * len(head) + "|"
    return "\n".join(["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(line) + " |" for line in lines)]) + "\n"
