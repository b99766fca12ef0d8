"""Load and reproducibility: a long stream of texts, many runs in one process, every recipe twice.

    python benchmarks/reliability.py stream [--texts 1000000]
    python benchmarks/reliability.py drift [--runs 200]
    python benchmarks/reliability.py recipes [--only NAME ...]

``stream`` feeds texts to ``bertpress predict`` and samples the resident memory of that process.  ``drift`` compresses
one tiny model again and again in one process and samples its memory after each run.  ``recipes`` runs each shipped
recipe twice with the same seed, each time in a process of its own, and compares the bytes of model.safetensors; it
keeps what it has found and goes on there.  benchmarks/faults.py and benchmarks/fuzz.py write into the same file,
results/reliability.json, a part each.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from bertpress.artifact.folder import write_file
from bertpress.measure.environment import environment

RESULTS = Path("results/reliability.json")
TINY = {"epochs": 1.0, "max_examples": 16, "max_steps": 4, "batch_size": 8, "precision": "float32"}
QUIET = {
    **os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip
FIELDS = ("text-classification", "--text-columns", "text", "--label-column", "label")


def recorded(part: str) -> dict[str, Any]:
    """What an earlier call found of a part; empty when it begins."""
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    return dict(found.get(part, {}))


def save(part: str, figures: dict[str, Any]) -> None:
    """Replace one part of results/reliability.json."""
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    found[part] = {**figures, "environment": environment(seed=0), "command": " ".join(["python", *sys.argv])}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_file(RESULTS, json.dumps(found, indent=1) + "\n")


def told(line: str) -> None:
    """One line of progress."""
    print(line, file=sys.stderr, flush=True)


def bertpress(*words: str | Path) -> list[str]:
    """A command line."""
    return [sys.executable, "-m", "bertpress", *map(str, words)]
