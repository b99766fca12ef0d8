"""One student and every target of distillation, then one target set and every family of students.

    python benchmarks/distill.py --data DIR [--teachers DIR] [--tasks sst2 mrpc squad] [--only NAME ...] [--seeds 0 1]
    python benchmarks/distill.py --data DIR --time [--threads 2]

Students of the first part have three of the six layers of the pre-trained model and learn from the task's teacher; so
"no teacher" is plain fine-tuning of the same start.  Those of "the teacher's first layers" start from the teacher.
Every row sees the same examples, but for those of "the whole split", which see it twice.  The second form times the
artifacts of the families in float32 on a quiet machine.  See benchmarks/comparison.py for how a row is run.  Writes
results/distill.json and .md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from comparison import (
    Row,
    Runtime,
    Start,
    markdown,
    place_of,
    save,
    scored,
    teacher_of,
    timed,
    timing_of,
    train_or_time,
)

from bertpress.study.claims import ATTENTION, COMBINING, GENERAL_FIRST, Claim, check

TASKS = ("sst2", "mrpc", "squad")
STEPS = 844  # of 32 examples
WHOLE = 4210  # twice the train split of sst2
Method = Mapping[str, Mapping[str, Any]]

THREE: Method = {"student/transformer": {"layers": 3}}
LOWEST: Method = {"student/transformer": {"layers": 3, "which": "top"}}
# as many parameters without embeddings as the BiLSTM has, deep and narrow or the other way
DEEP: Method = {"student/transformer": {"layers": 3, "heads": 6, "ffn": 300, "hidden_size": 156, "start": "random"}}
WIDE: Method = {"student/transformer": {"layers": 1, "heads": 6, "ffn": 556, "hidden_size": 252, "start": "random"}}
BILSTM: Method = {"student/bilstm": {}}
FEW = 2000
LOGITS: Method = {"distill/logits": {"alpha": 0.9, "temperature": 2.0, "loss": "kl"}}
SCORES: Method = {"distill/logits": {"alpha": 1.0, "loss": "mse"}}
HIDDEN: Method = {"distill/hidden": {}}
VALUES: Method = {"distill/attention": {"targets": ["scores", "values"]}}


def stage(
    name: str, *methods: Method, rate: float = 1e-4, steps: int = STEPS, epochs: float = 3, **fields: Any
) -> dict[str, Any]:
    """One stage of a recipe."""
    train = {"epochs": epochs, "max_steps": steps, "learning_rate": rate, "warmup_ratio": 0.1}
    return {"name": name, "use": [dict(method) for method in methods], "train": train, **fields}


def row(
    *stages: dict[str, Any],
    rows: int | None = None,
    start: Start = "pretrained",
    tasks: tuple[str, ...] | None = None,
    **fields: Any,
) -> Row:
    """A line whose student starts from the pre-trained model or from its teacher; fields are the recipe's."""
    return Row({"name": "distill", "stages": list(stages), "export": [], **fields}, start=start, tasks=tasks, rows=rows)


def one(*terms: Method) -> Row:
    """The student of three layers under these terms."""
    return row(stage("distil", THREE, *terms))


def family(student: Method, *more: Method, rows: int | None = None, **fields: Any) -> Row:
    """A student of another kind that learns the teacher's logits."""
    return row(stage("distil", student, SCORES, *more, rate=1e-3, epochs=100), rows=rows, **fields)


# by the name of the line: first targets alone beside the labels, then together
TARGETS: dict[str, Row] = {
    "no teacher": one(),
    "logits, KL": one(LOGITS),
    "logits, MSE": one(SCORES),
    "embeddings": one({"distill/embeddings": {}}),
    "hidden states": one(HIDDEN),
    "[CLS] states (PKD)": one({"distill/pkd": {"weight": 10.0}}),
    "attention scores": one({"distill/attention": {"targets": ["scores"]}}),
    "attention maps": one({"distill/attention": {"targets": ["maps"]}}),
    "contexts of heads": one({"distill/attention": {"targets": ["contexts"]}}),
    "queries, keys, values": one({"distill/attention": {"targets": ["queries", "keys", "values"]}}),
    "last layer's relations (MiniLM)": one({"distill/minilm": {"task": 1.0}}),
    "relations (MiniLMv2)": one({"distill/minilmv2": {"task": 1.0}}),
    "transport of layers (BERT-EMD)": one({"distill/emd": {}}),
    "contrast of sentences (CoDIR)": one({"distill/codir": {}}),
    "parameters (projection)": one({"distill/projection": {}}),
    "probes": one({"distill/probes": {}}),
    "logits and hidden states": one(SCORES, HIDDEN),
    "logits, hidden states, attention": one(SCORES, HIDDEN, VALUES),
    "all layers, then the answers": row(
        stage("insides", THREE, {"distill/embeddings": {}}, HIDDEN, VALUES, steps=STEPS // 2, task_loss=False),
        stage("answers", SCORES, steps=STEPS // 2, rate=5e-5),
    ),
    "unlabelled text first": row(
        stage("general", THREE, HIDDEN, VALUES, data="unlabelled", teacher="pretrained", task_loss=False),
        stage("distil", SCORES, HIDDEN, VALUES),
    ),
    "the teacher's first layers, no teacher": row(stage("train", LOWEST), start="teacher"),
    "the teacher's first layers, logits and hidden states": row(
        stage("distil", LOWEST, SCORES, HIDDEN), start="teacher"
    ),
    # longer than the others, as the protocol allows where a bar needs it
    "no teacher, the whole split": row(stage("distil", THREE, steps=WHOLE, epochs=2), tasks=("sst2",)),
    "logits, hidden states, attention, the whole split": row(
        stage("distil", THREE, SCORES, HIDDEN, VALUES, steps=WHOLE, epochs=2), tasks=("sst2",)
    ),
    "the teacher's first layers, all of these, the whole split": row(
        stage("distil", LOWEST, SCORES, HIDDEN, VALUES, steps=WHOLE, epochs=2), start="teacher", tasks=("sst2",)
    ),
}
RIVALS: dict[str, Row] = {  # of the BiLSTM
    "Transformer, three layers, random start": family(DEEP),
    "Transformer, one layer, random start": family(WIDE),
}
FAMILIES: dict[str, Row] = {
    **RIVALS,
    "BiLSTM": family(BILSTM),
    "CNN": family({"student/cnn": {}}),
    "hybrid": family({"student/hybrid": {}}),
    "searched CNN (AdaBERT)": Row("adabert", start="pretrained"),
    # what text beyond the labelled rows is worth
    "BiLSTM, 2,000 rows": family(BILSTM, rows=FEW),
    "BiLSTM, 2,000 rows augmented by rules": family(BILSTM, {"distill/augment": {"copies": 12}}, rows=FEW),
    "BiLSTM, 2,000 labels, the others unlabelled": family(BILSTM, labels=FEW),
}
ROWS = TARGETS | FAMILIES
RUNTIMES: dict[Runtime, str] = {"openvino": "OpenVINO", "onnx": "ONNX Runtime"}
# what should be better, and the rows of which the best is compared with it
CLAIMS: tuple[tuple[Claim, str, tuple[str, ...]], ...] = (
    (ATTENTION, "logits, hidden states, attention", ("logits and hidden states",)),
    (COMBINING, "logits, hidden states, attention", ("logits, MSE", "hidden states", "attention scores")),
    (GENERAL_FIRST, "unlabelled text first", ("logits, hidden states, attention",)),
)


def verdicts(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the runs say of each claim; a pair is a task and a seed on which all of its rows were run."""
    scores = {(entry["name"], entry["task"], entry["seed"]): entry["metric"]["value"] for entry in entries}
    found = []
    for claim, better, worse in CLAIMS:
        runs = sorted({(task, seed) for _, task, seed in scores})
        paired = [run for run in runs if all((name, *run) in scores for name in (better, *worse))]
        ours = [scores[(better, *run)] for run in paired]
        theirs = [max(scores[(name, *run)] for name in worse) for run in paired]
        found.append(check(claim, ours, theirs).model_dump(mode="json"))
    return found


def claims_table(checked: Sequence[Mapping[str, Any]]) -> str:
    """One line a claim."""
    lines = []
    for each in checked:
        value = "" if each["value"] is None else f"{each['value']:+.2f}"
        interval = "" if each["low"] is None else f" [{each['low']:+.2f}, {each['high']:+.2f}]"
        lines.append([each["claim"]["text"], str(each["pairs"]), value + interval, each["verdict"]])
    return markdown(["claim", "pairs of runs", "difference [95 %]", "verdict"], lines)


def table(entries: Sequence[Mapping[str, Any]]) -> str:
    """One line a row, one column a task; sizes and times are those on the first task that has the row."""
    ordered = sorted(entries, key=lambda entry: (TASKS.index(entry["task"]), entry["seed"]))
    named = [task for task in TASKS if any(entry["task"] == task for entry in entries)]
    head = ["student and targets", "parameters without embeddings", "file"]
    head += [f"{runtime}, {named[0]}" for runtime in RUNTIMES.values()]
    head += [f"{task}: metric, drop [95 %], processor seconds" for task in named]
    lines = []
    for name in ROWS:
        first = next((entry for entry in ordered if entry["name"] == name), None)
        if first is not None:
            times = first.get("timing")
            faster = ["not run" if times is None else f"{times[each]['artifact']['speedup']:.2f}x" for each in RUNTIMES]
            cells = [name, f"{first['parameters_without_embeddings'] / 1e6:.2f} M"]
            cells += [f"{first['weight_bytes'] / 1e6:.1f} MB", *faster]
            lines.append([*cells, *(scored(entries, name, task) for task in named)])
    return markdown(head, lines)


def rivals_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """How many times as long Transformers of its size take as the BiLSTM; one line a task, engine and rival."""
    lines = []
    for entry in entries:
        for runtime, times in entry.get("timing", {}).items():
            own = times["artifact"]["latency_ms"]["median"]
            found = [(rival, times[rival]["latency_ms"]["median"]) for rival in RIVALS if rival in times]
            lines += [[entry["task"], RUNTIMES[runtime], rival, f"{other / own:.2f}"] for rival, other in found]
    return markdown(["task", "engine", "student of the BiLSTM's size", "its latency over the BiLSTM's"], lines)


def ratio(name: str, task: str, options: argparse.Namespace) -> dict[str, Any]:
    """The teacher's latency and the artifact's on both engines, of the BiLSTM by turns with its rivals'."""
    models = {"teacher": teacher_of(task, options.teachers), "artifact": place_of(options, name, task, 0) / "model"}
    if name == "BiLSTM":
        models |= {rival: place_of(options, rival, task, 0) / "model" for rival in RIVALS}
    return {runtime: timed(models, task, options.data, options.threads, runtime) for runtime in RUNTIMES}


def write(options: argparse.Namespace, entries: list[dict[str, Any]]) -> None:
    """Results of every run that has ended so far, of this command and of earlier ones."""
    whole = [{**entry, **timing_of(entry, options)} for entry in entries]
    checked = verdicts(whole)
    save(options, {"entries": whole, "claims": checked})
    text = "\n".join([table(whole), rivals_table(whole), claims_table(checked)])
    options.results.with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(
        train_or_time(__doc__, TASKS, "distill", ROWS, ratio, write, seeds=(0, 1), timed_rows=["no teacher", *FAMILIES])
    )
