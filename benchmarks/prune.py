"""Every pruning method at two ratios, on several tasks, under equal conditions: what is left, and what it saves.

    python benchmarks/prune.py --data DIR [--teachers DIR] [--tasks sst2 ag_news] [--only NAME ...] [--seeds 0]
    python benchmarks/prune.py --data DIR --time [--threads 2]

The first form trains; see benchmarks/comparison.py for how a row is run.  The second, on a quiet machine, exports each
artifact of seed 0 to OpenVINO as it is and after ``quantize/int8``, and times both by turns with the teacher treated
alike, on real sentences at batch 1.  Writes results/prune.json and .md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from comparison import (
    TOKENS,
    Row,
    int8_of,
    markdown,
    place_of,
    save,
    scored,
    teacher_of,
    timed,
    timing_of,
    train_or_time,
)

from bertpress import artifact

TASKS = ("sst2", "ag_news")

HALF_WIDTH = str(Path(__file__).with_name("half-width.yaml"))

CLOCK = {"stages.0.use.0.engine": "openvino"}  # what is measured is what the last column times


def fisher(keep: float) -> dict[str, Any]:
    """The float model that ``recipes/fisher.yaml`` quantizes."""
    method = {"keep": keep, "budget": "latency", "engine": "openvino"}
    stage = {"name": "prune", "use": [{"prune/fisher": method}]}
    return {"name": "fisher", "cite": "Kwon et al., 2022", "summary": "Without training.", "stages": [stage]}


# by the name of the line; what the paper prunes before fine-tuning starts from the pre-trained model
ROWS: dict[str, Row] = {
    "magnitude, 50 %": Row("magnitude", {"stages.0.use.0.keep": 0.5}),
    # longer than the others, as the protocol allows where a bar needs it
    "magnitude, 50 %, the whole split": Row(
        "magnitude",
        {"stages.0.use.0.keep": 0.5, "stages.0.train.max_steps": None, "stages.0.train.epochs": 1},
        tasks=("sst2",),
    ),
    # as the paper compares them: both from the pre-trained model, at one rate, from the labels alone
    "magnitude from pre-trained, 10 %": Row(
        "magnitude", {"stages.0.use.0.keep": 0.1, "stages.0.train.learning_rate": 1.0e-4}, "pretrained"
    ),
    "movement from labels, 10 %": Row(
        "movement", {"stages.0.use.0.keep": 0.1, "stages.0.use.1.alpha": 0.0}, "pretrained"
    ),
    # longer than the others, as the paper's claim is about what a long run learns
    "magnitude from pre-trained, 10 %, the whole split": Row(
        "magnitude",
        {
            "stages.0.use.0.keep": 0.1,
            "stages.0.train.learning_rate": 1.0e-4,
            "stages.0.train.max_steps": None,
            "stages.0.train.epochs": 2,
        },
        "pretrained",
        tasks=("sst2",),
    ),
    "movement from labels, 10 %, the whole split": Row(
        "movement",
        {
            "stages.0.use.0.keep": 0.1,
            "stages.0.use.1.alpha": 0.0,
            "stages.0.train.max_steps": None,
            "stages.0.train.epochs": 2,
        },
        "pretrained",
        tasks=("sst2",),
    ),
    "magnitude, 10 %": Row("magnitude", {"stages.0.use.0.keep": 0.1, "stages.0.train.learning_rate": 1.0e-4}),
    "movement, 50 %": Row("movement", {"stages.0.use.0.keep": 0.5}, "pretrained"),
    "movement, 10 %": Row("movement", {"stages.0.use.0.keep": 0.1}, "pretrained"),
    "lottery ticket, 3 rounds": Row("lottery-ticket", {"stages.0.repeat": 3}, "pretrained"),
    "lottery ticket, 6 rounds": Row("lottery-ticket", {"stages.0.repeat": 6}, "pretrained"),
    "RPP, 59 %": Row("rpp"),
    "RPP, 30 %": Row("rpp", {"stages.0.use.0.keep": 0.3}),
    "oBERT, 50 %": Row("obert"),
    "oBERT, 10 %": Row("obert", {"stages.0.use.0.keep": 0.1}),
    "blocks, 50 %": Row("block-structured"),
    "blocks, 25 %": Row("block-structured", {"stages.0.use.0.keep": 0.25}),
    "block movement": Row("block-movement"),
    "block movement, more penalty": Row(
        "block-movement", {"stages.0.use.0.attention": 30.0, "stages.0.use.0.ffn": 30.0}
    ),
    "heads, 60 %": Row("sixteen-heads"),
    "heads, 30 %": Row("sixteen-heads", {"stages.0.use.0.keep": 0.3}),
    "half of heads and neurons": Row(HALF_WIDTH),
    "a quarter of heads and neurons": Row(HALF_WIDTH, {"stages.0.use.0.keep": 0.25, "stages.0.use.1.keep": 0.25}),
    "top layers, 3 of 6": Row("poor-mans-bert", start="pretrained"),
    "top layers, 2 of 6": Row("poor-mans-bert", {"stages.0.use.0.drop": 4}, "pretrained"),
    "bottom layers, 3 of 6": Row("poor-mans-bert", {"stages.0.use.0.strategy": "bottom"}, "pretrained"),
    "LayerDrop, 3 of 6": Row("layerdrop"),
    "LayerDrop, 4 of 6": Row("layerdrop", {"stages.0.use.0.drop": 0.33, "stages.0.use.0.p": 0.2}),
    "Theseus, 3 layers": Row("theseus"),
    "Theseus, 2 layers": Row("theseus", {"stages.0.use.0.layers": 2}),
    "SNIP, half of heads and networks": Row("snip"),
    "SNIP, three quarters": Row("snip", {"stages.0.use.0.keep_heads": 0.75, "stages.0.use.0.keep_ffn": 0.75}),
    "tickets, good": Row("all-tickets", start="pretrained"),
    "tickets, random": Row("all-tickets", {"stages.0.use.0.which": "random"}, "pretrained"),
    "tickets, bad": Row("all-tickets", {"stages.0.use.0.which": "bad"}, "pretrained"),
    "DynaBERT, 0.25 x 0.5": Row("dynabert", begins="DynaBERT, 0.5 x 0.75"),
    "DynaBERT, 0.5 x 0.75": Row(
        "dynabert", {"stages.3.use.0.width": 0.5, "stages.3.use.0.depth": 0.75}, begins="DynaBERT, 0.25 x 0.5"
    ),
    # longer, as its sub-networks are held against networks that have as many steps each for themselves
    "DynaBERT, 0.5 x 0.75, longer": Row(
        "dynabert",
        {
            "stages.1.train.epochs": 3,
            "stages.1.train.max_steps": 844,
            "stages.1.train.learning_rate": 1.0e-4,
            "stages.2.train.epochs": 1,
            "stages.2.train.max_steps": 282,
            "stages.2.train.learning_rate": 5.0e-5,
            "stages.3.use.0.width": 0.5,
            "stages.3.use.0.depth": 0.75,
        },
        tasks=("sst2",),
        begins="DynaBERT, 0.5 x 0.75",
    ),
    "composition, 60 % of the latency": Row("composition"),
    "composition, 40 % of the latency": Row("composition", {"stages.0.use.0.latency": 0.4}),
    "Fisher, 60 % of the latency": Row(fisher(0.6)),
    "Fisher, 80 % of the latency": Row(fisher(0.8)),
    "ZipLM, 60 % of the latency": Row("ziplm", CLOCK),
    "ZipLM, 60 % of the latency, at once": Row(
        "ziplm",
        {
            **CLOCK,
            "stages.0.use.0.keep": 0.6,
            "stages.0.train.epochs": 3,
            "stages.0.train.max_steps": 844,
            "stages.0.repeat": 1,
        },
    ),
    "schuBERT": Row("schubert"),
    "schuBERT, 4 rounds": Row("schubert", {"stages.0.repeat": 4}),
    "CoFi, half of the encoder": Row("cofi"),
    "CoFi, a fifth": Row("cofi", {"stages.0.use.0.sparsity": 0.8}),
}


def ratios(name: str, task: str, options: argparse.Namespace) -> dict[str, Any]:
    """Ratios of the teacher's latency to the artifact's on OpenVINO, both float32, and both int8."""
    place = place_of(options, name, task, 0)
    pair = {"teacher": teacher_of(task, options.teachers), "artifact": place / "model"}
    found = {"float32": timed(pair, task, options.data, options.threads)}
    roots = {"teacher": options.out / task / "teacher-int8", "artifact": place / "int8"}
    pair = {which: int8_of(folder, task, options, roots[which]) for which, folder in pair.items()}
    return found | {"int8": timed(pair, task, options.data, options.threads)}


def table(entries: list[dict[str, Any]]) -> str:
    """One line a method and task."""
    head = ["method", "task", "density", "encoder parameters", "file", "% of teacher", "MACs"]
    head += ["OpenVINO float32", "int8", "metric, drop [95 %], processor seconds"]
    lines = []
    for name in ROWS:
        for task in TASKS:
            first = next((entry for entry in entries if (entry["name"], entry["task"]) == (name, task)), None)
            if first is None:
                continue
            times = first.get("timing", {})
            faster = [
                f"{times[kind]['artifact']['speedup']:.2f}x" if kind in times else "not run"
                for kind in ("float32", "int8")
            ]
            left = f"{first['parameters_without_embeddings'] / 1e6:.1f} M"
            cells = [name, task, f"{100 * first['density']:.0f} %", left, f"{first['weight_bytes'] / 1e6:.1f} MB"]
            cells += [f"{first['percent_of_teacher']:.1f}", f"{first['macs'] / 1e6:.0f} M", *faster]
            lines.append([*cells, scored(entries, name, task)])
    return markdown(head, lines)


def with_density(entry: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The entry with the share of its layers' weights that are not zero, and with its timings where there are some."""
    place = place_of(options, entry["name"], entry["task"], entry["seed"])
    if "density" not in entry and place.is_dir():
        made = artifact.load(place / "model")
        weights = [weight for name, weight in made.model.unique_weights() if weight.ndim > 1 and ".layers." in name]
        kept = sum(int(weight.count_nonzero()) for weight in weights)
        entry["density"] = kept / max(1, sum(weight.numel() for weight in weights))
        (place / "entry.json").write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")  # once
    return entry | timing_of(entry, options)


def write(options: argparse.Namespace, entries: list[dict[str, Any]]) -> None:
    """Results of every run that has ended so far, of this command and of earlier ones."""
    whole = [with_density(entry, options) for entry in entries]
    save(options, {"entries": whole, "macs_tokens": TOKENS})
    options.results.with_suffix(".md").write_text(table(whole), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(train_or_time(__doc__, TASKS, "prune", ROWS, ratios, write))
