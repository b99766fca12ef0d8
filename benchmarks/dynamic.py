"""Models that do less for easy texts: what they save at batch 1 and 32, and what that costs, at several settings.

    python benchmarks/dynamic.py --data DIR [--teachers DIR] [--tasks sst2 ag_news] [--only NAME ...] [--seeds 0]
    python benchmarks/dynamic.py --data DIR --time [--threads 2]

The first form trains; see benchmarks/comparison.py for how a row is run.  The second, on a quiet machine, takes each
artifact of seed 0 as it is on PyTorch and after ``quantize/int8`` on OpenVINO, scores it at each setting, and times the
settings by turns with the same file at speed 0, which runs all layers in one graph; on OpenVINO at batch 1 once more,
all of them in graphs for some lengths.  A setting of a model with exits is a loss that is permitted on rows cut from
train, not on those that are scored here.  A row without exits has one setting, and the teacher treated alike is what it
is timed against; one whose recipe ends in integers has no other form.  Writes results/dynamic.json, .md and .html.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from comparison import (
    LENGTHS,
    LIMITS,
    TIMED_TEXTS,
    Row,
    int8_of,
    markdown,
    place_of,
    save,
    scored,
    teacher_of,
    timing_of,
    train_or_time,
)

from bertpress import artifact, tasks
from bertpress.artifact import Artifact
from bertpress.artifact.exits import described, speed_for
from bertpress.artifact.predict import logits_of
from bertpress.engines import load_engine
from bertpress.engines.staged import Staged
from bertpress.measure.bench import Candidate, interleave
from bertpress.outcome import BATCH, texts_of
from bertpress.report import dynamic_page
from bertpress.tasks import Rows

TASKS = ("sst2", "mnli", "ag_news", "stsb")
CLASSES = ("sst2", "mnli", "ag_news")
TEXTS = ("sst2", "ag_news")
DROPS = (0.5, 1.0, 2.0)
PAIRS = "stages.0.use.tokens/merge.pairs"
TIMES = ("speedup", "speedup_interval", "latency_ms", "model_latency_ms")
ENGINES = {"float32": "torch", "int8": "openvino"}
ANSWERS = {"distill/logits": {"alpha": 0.9, "temperature": 2.0, "loss": "kl"}}
INTEGERS = {"name": "quantize", "use": [{"quantize/int8": {}}]}


def distilled(keep: list[float]) -> dict[str, Any]:
    """Given shares, and the teacher's answers beside the labels, which PoWER-BERT itself does not use."""
    train = {"epochs": 3, "max_examples": 9000, "learning_rate": 5.0e-5}
    return {
        "name": "power-distilled", "summary": "Shares that are given, and the teacher's answers; then 8-bit integers.",
        "cite": "Goyal et al., 2020",
        "stages": [
            {"name": "shorten", "use": [{"tokens/power": {"keep": keep}}, ANSWERS], "train": train},
            INTEGERS,
        ],
    }  # fmt: skip


def three_layers() -> dict[str, Any]:
    """A student of half the depth, early exits on it, integers."""
    cut = {"epochs": 3, "max_examples": 9000, "learning_rate": 1.0e-4}
    exits = {"epochs": 3, "max_examples": 9000, "learning_rate": 1.0e-3}
    return {
        "name": "three-layers", "summary": "Three layers with early exits; then 8-bit integers.",
        "cite": "Liu et al., 2020",
        "stages": [
            {"name": "cut", "use": [{"student/transformer": {"layers": 3}}, ANSWERS], "train": cut},
            {"name": "exits", "use": [{"exit/fastbert": {}}], "train": exits},
            INTEGERS,
        ],
    }  # fmt: skip


ROWS: dict[str, Row] = {
    "DeeBERT": Row("deebert", tasks=CLASSES),
    "FastBERT, every second layer": Row("fastbert", {"stages.0.use.exit/fastbert.every": 2}, tasks=CLASSES),
    "FastBERT, MPNet-base, every third layer": Row(
        "fastbert", {"stages.0.use.exit/fastbert.every": 3}, tasks=("sst2",), model="mpnet-base"
    ),
    "PABEE": Row("pabee"),
    "PoWER-BERT": Row("power-bert", tasks=TEXTS),
    "PoWER-BERT, 15 % kept from the third layer, distilled": Row(distilled([1.0, 1.0, 0.15]), tasks=TEXTS),
    "PoWER-BERT, 60 % kept from the second layer, 15 % from the third, distilled": Row(
        distilled([1.0, 0.6, 0.15]), tasks=TEXTS
    ),
    "EdgeBERT": Row("edgebert", tasks=("sst2",)),
    "three layers, FastBERT, int8": Row(three_layers(), tasks=("sst2",)),
    "LTP": Row("ltp", tasks=TEXTS),
    "token merging": Row("token-merging", tasks=TEXTS),
    "token merging, 15 % in pairs": Row("token-merging", {PAIRS: 0.15}, tasks=TEXTS),
    "token merging, 40 % in pairs": Row("token-merging", {PAIRS: 0.4}, tasks=TEXTS),
}


def settings_of(made: Artifact) -> dict[str, float | None]:
    """The speeds of a model by what they may cost; one setting, its own, of any other."""
    if made.manifest.exits is None:
        return {"as it is": None}
    return {f"drop {drop:g}": speed_for(made.manifest.exits["curve"], drop) for drop in DROPS}


def answers(made: Artifact, engine: str, speed: float | None, rows: Rows, threads: int) -> dict[str, Any]:
    """Predictions at one setting, and where rows left."""
    runner, task = load_engine(engine, made.path, threads, speed), made.task
    assert task is not None
    encoded, logits = logits_of(task, rows, made.tokenizer, runner, BATCH)
    tokens = round(sum(encoded.lengths) / len(encoded.lengths))
    left: dict[str, Any] = {"macs": sum(made.blueprint.macs(tokens).values())} if made.blueprint.shrinks else {}
    if isinstance(runner, Staged):
        left = described(made.blueprint, runner.left.tolist(), runner.speed, tokens=tokens)
    return {"predictions": tasks.predictions(task, encoded, logits), "exits": left}


def measured(made: Artifact, whole: Path, engine: str, task: str, options: argparse.Namespace) -> dict[str, Any]:
    """Scores and ratios of every setting against ``whole`` on one engine."""
    rows = tasks.load(tasks.resolve(task), "validation", options.data, LIMITS.get(task, (None, None))[1])
    assert made.task is not None
    truth, settings = tasks.references(made.task, rows), settings_of(made)
    level = answers(artifact.load(whole), engine, 0.0 if whole == made.path else None, rows, options.threads)
    texts = texts_of(made.task, rows.limit(TIMED_TEXTS, 0))
    candidates = [
        Candidate("whole", whole, engine, 0.0 if whole == made.path else None),
        *(Candidate(name, made.path, engine, speed) for name, speed in settings.items()),
    ]
    first, *times = interleave(candidates, texts, threads=options.threads)
    fixed: list[dict[str, Any]] = []
    if engine == "openvino":
        same = [candidate._replace(lengths=LENGTHS) for candidate in candidates]
        fixed = [{"fixed_lengths": {key: each[key] for key in TIMES}}
                 for each in interleave(same, texts, threads=options.threads, throughput_texts=0)[1:]]  # fmt: skip
    found = {}
    for (name, speed), timed, more in zip(settings.items(), times, fixed or [{} for _ in times], strict=True):
        mine = answers(made, engine, speed, rows, options.threads)
        drop = tasks.drop(made.task, level["predictions"], mine["predictions"], truth)
        found[name] = {
            "speed": speed,
            "threads": options.threads,
            **mine["exits"],
            "metric": next(iter(tasks.score(made.task, mine["predictions"], truth).values())).model_dump(mode="json"),
            "drop": drop.model_dump(mode="json"),
            "batch_1": {key: timed[key] for key in TIMES},
            **more,
            "batch_32": timed["throughput_per_s"] / first["throughput_per_s"],
        }
    return found


def ratios(name: str, task: str, options: argparse.Namespace) -> dict[str, Any]:
    """All settings of an artifact, float32 on PyTorch, unless its recipe ends in integers, and int8 on OpenVINO."""
    made = artifact.load(place_of(options, name, task, 0) / "model")
    forms = {"int8": made}
    if made.blueprint.activation_bits is not None:
        if "openvino" not in made.exports:
            made.export("openvino")
    else:
        quantized = artifact.load(int8_of(made.path, task, options, made.path.with_name("int8")))
        forms = {"float32": made, "int8": quantized}
    model = ROWS[name].model
    teacher = teacher_of(task, options.teachers, model)
    found = {}
    for kind, each in forms.items():
        whole = each.path
        if each.blueprint.exit is None:
            whole = (
                teacher if kind == "float32" else int8_of(teacher, task, options, options.out / task / f"int8-{model}")
            )
        found[kind] = measured(each, whole, ENGINES[kind], task, options)
    return found


def fixed_cells(found: dict[str, Any]) -> tuple[str, str]:
    """What graphs for some lengths give."""
    timed = found.get("fixed_lengths")
    if timed is None:
        return "", ""
    low, high = timed["speedup_interval"]
    return f"{timed['speedup']:.2f}x [{low:.2f}, {high:.2f}]", f"{timed['latency_ms']['median']:.2f}"


def table(entries: list[dict[str, Any]]) -> str:
    """One line a method, task, kind of number and setting."""
    head = ["method", "task", "run as", "threads", "setting", "mean layer", "MACs", "batch 1", "batch 32", "metric"]
    head += ["drop [95 %]", "ms, text to label", "of them the model", "fixed lengths: batch 1", "ms, text to label"]
    head += ["at its own speed, against the teacher: metric, drop [95 %], processor seconds"]
    lines = []
    for entry in entries:
        for kind, settings in entry.get("timing", {}).items():
            for setting, found in settings.items():
                drop = found["drop"]
                lines.append([
                    entry["name"], entry["task"], f"{kind}, {ENGINES[kind]}", str(found["threads"]), setting,
                    f"{found['mean_layer']:.2f}" if "mean_layer" in found else "all",
                    f"{found['macs'] / 1e6:.0f} M" if "macs" in found else "as counted",
                    f"{found['batch_1']['speedup']:.2f}x", f"{found['batch_32']:.2f}x",
                    f"{found['metric']['value']:.1f}", f"{drop['value']:+.1f} [{drop['low']:.1f}, {drop['high']:.1f}]",
                    *(f"{found['batch_1'][which]['median']:.2f}" for which in ("latency_ms", "model_latency_ms")),
                    *fixed_cells(found),
                    scored(entries, entry["name"], entry["task"]),
                ])  # fmt: skip
    return markdown(head, lines)


def write(options: argparse.Namespace, entries: list[dict[str, Any]]) -> None:
    """Results of every run that has ended so far, of this command and of earlier ones."""
    known = [entry | timing_of(entry, options) for entry in entries]
    save(options, {"entries": known})
    options.results.with_suffix(".md").write_text(table(known), encoding="utf-8")
    options.results.with_suffix(".html").write_text(dynamic_page(known), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(train_or_time(__doc__, TASKS, "dynamic", ROWS, ratios, write))
