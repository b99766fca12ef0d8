"""What a teacher costs while training: a student alone, with cached logits, and with a live teacher of twice its depth.

    python benchmarks/cached_teacher.py --data DIR [--teachers DIR] [--examples 1920] [--rounds 7] [--threads 2]

Each round trains the same student of three layers for one epoch on the same examples in each of the three ways, by
turns; times are those of the steps.  What filling the cache takes, once, is reported beside them.  Ratios are medians
of paired rounds: cached over alone must be at most 1.15, cached over live at most 0.6.  Writes
results/cached_teacher.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from comparison import CACHE, save_timings, teacher_of

from bertpress import artifact, tasks
from bertpress.encoder.surgery import keep_layers
from bertpress.measure.environment import usable_cores
from bertpress.measure.statistics import paired_ratio
from bertpress.methods.matching import TeacherLoss
from bertpress.training import TaskLoss, Teacher, TrainSettings, train

TASK = "sst2"
BARS = {"cached over alone": 1.15, "cached over live": 0.6}


def runs(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Callable[[], float]], float]:
    """Three ways to train an epoch, each giving its seconds; and the seconds that filling the cache took."""
    made = artifact.load(teacher_of(TASK, options.teachers))
    assert made.task is not None
    rows = tasks.load(made.task, "train", options.data).limit(options.examples, 0)
    data = tasks.encode(made.task, rows, made.tokenizer, training=True)
    student = keep_layers(made.model, [1, 3, 5])
    assert 2 * len(student.blueprint.layers) == len(made.blueprint.layers)
    terms = [TaskLoss(weight=0.1), TeacherLoss("kl", 2.0, "sequence", weight=0.9)]

    def epoch(objectives: list[Any], teacher: Teacher | None) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            result = train(
                deepcopy(student), task=made.task, data=data, tokenizer=made.tokenizer, objectives=objectives,
                settings=TrainSettings(epochs=1, batch_size=32, checkpoint_seconds=3600), folder=Path(place),
                teacher=teacher, progress="none",
            )  # fmt: skip
        return result.seconds

    began = time.perf_counter()
    cached = Teacher(made.model, cache=folder / "cache")
    first = epoch(terms, cached)
    filling = time.perf_counter() - began - first
    ways = {
        "alone": lambda: epoch([TaskLoss()], None),
        "cached": lambda: epoch(terms, cached),
        "live": lambda: epoch(terms, Teacher(made.model)),
    }
    return ways, filling


def main() -> int:
    """Time, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teachers", type=Path, default=CACHE / "teachers")
    parser.add_argument("--examples", type=int, default=1920)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--results", type=Path, default=Path("results/cached_teacher.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        ways, filling = runs(options, Path(folder))
        for way in ways.values():
            way()  # to warm up
        for turn in range(options.rounds):
            for name in sorted(ways, reverse=turn % 2 == 0):
                taken.setdefault(name, []).append(ways[name]())
                print(f"round {turn + 1} of {options.rounds}, {name}: {taken[name][-1]:.2f} s", file=sys.stderr)
    ratios = {
        name: paired_ratio(*(taken[way] for way in name.split(" over "))).model_dump(mode="json") for name in BARS
    }
    content = {
        "examples": options.examples,
        "seconds": taken,
        "filling_the_cache_seconds": filling,
        "ratios": ratios,
        "bars": [
            {"name": name, "at_most": bar, "measured": ratios[name]["value"], "met": ratios[name]["value"] <= bar}
            for name, bar in BARS.items()
        ],
    }
    save_timings(options.results, content, options.threads)
    for bar in content["bars"]:
        verdict = "met" if bar["met"] else "MISSED"
        print(f"{bar['name']}: {bar['measured']:.3f}, at most {bar['at_most']}: {verdict}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
