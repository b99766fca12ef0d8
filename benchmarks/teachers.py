"""Make the pinned teachers of every benchmark here, once; a teacher whose inputs have not changed is kept.

    python benchmarks/teachers.py --data DIR [--models DIR] [--out DIR] [NAME ...]

``--data`` holds the tasks' folders, ``--models`` the folders minilm-l6 and mpnet-base.  A teacher's folder is named
by the hash of what it is made from (weights, training file, settings), and an interrupted one goes on where it was.
Writes results/teachers.json: validation metric with interval, floor, seconds, examples a second, environment.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provenance import made_on

from bertpress import tasks
from bertpress.artifact.manifest import hash_file
from bertpress.runner import fine_tune
from bertpress.training import TrainSettings

CACHE = Path.home() / ".cache" / "bertpress"


@dataclass(frozen=True)
class Pinned:
    """One teacher: the model, the task, how it is trained, and the metric below which it is no teacher."""

    model: str
    task: str
    settings: TrainSettings
    floor: float | None = None

    @property
    def name(self) -> str:
        """Model and task."""
        return f"{self.model}-{self.task}"


TEACHERS = (
    Pinned("minilm-l6", "sst2", TrainSettings(epochs=2, learning_rate=1e-4, batch_size=32), floor=88.0),
    Pinned("minilm-l6", "mrpc", TrainSettings(epochs=5, learning_rate=1e-4, batch_size=16)),
    Pinned("minilm-l6", "ag_news", TrainSettings(epochs=3, learning_rate=1e-4, batch_size=32)),
    Pinned("minilm-l6", "stsb", TrainSettings(epochs=5, learning_rate=1e-4, batch_size=16)),
    Pinned("minilm-l6", "squad", TrainSettings(epochs=4, learning_rate=2e-4, batch_size=16)),
    Pinned("minilm-l6", "mnli", TrainSettings(epochs=3, learning_rate=1e-4, batch_size=32)),
    Pinned("mpnet-base", "sst2", TrainSettings(epochs=1, learning_rate=2e-5, batch_size=32), floor=93.0),
    Pinned("mpnet-base", "ag_news", TrainSettings(epochs=2, learning_rate=2e-5, batch_size=32)),
)


def place_of(pinned: Pinned, models: Path, data: Path, out: Path) -> Path:
    """The teacher's folder, named by the hash of everything that it is made from."""
    task = tasks.resolve(pinned.task)
    train = data / pinned.task / "train.jsonl.gz"
    parts = [
        hash_file(models / pinned.model / "model.safetensors").sha256,
        hash_file(train).sha256,
        json.dumps(pinned.settings.decisive(), sort_keys=True),
        task.model_dump_json(),
    ]
    return out / f"{pinned.name}-{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:12]}"


def make(pinned: Pinned, models: Path, data: Path, out: Path) -> dict[str, Any]:
    """Train one teacher, or read what is known of it."""
    place = place_of(pinned, models, data, out)
    known = place / "results.json"
    if not known.is_file():
        fine_tune(
            models / pinned.model,
            tasks.resolve(pinned.task),
            place,
            data=data,
            settings=pinned.settings,
            resume=place.exists(),
            command=f"python benchmarks/teachers.py {pinned.name}",
            say=lambda line: print(f"{pinned.name}: {line}", file=sys.stderr, flush=True),
        )
    found = json.loads(known.read_text(encoding="utf-8"))
    train = {key: value for key, value in found["train"].items() if key != "log"}
    metrics = found["metrics"]
    return {"name": pinned.name, "folder": place.name, "floor": pinned.floor, "metrics": metrics, "train": train}


def main() -> int:
    """Make the teachers that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as minilm-l6-sst2; all if none is given")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=CACHE / "models")
    parser.add_argument("--out", type=Path, default=CACHE / "teachers")
    parser.add_argument("--results", type=Path, default=Path("results/teachers.json"))
    options = parser.parse_args()
    known = {pinned.name: pinned for pinned in TEACHERS}
    if unknown := sorted(set(options.names) - set(known)):
        parser.error(f"unknown teacher {unknown[0]}; known: {', '.join(known)}")
    made = {}
    if options.results.is_file():
        made = {entry["name"]: entry for entry in json.loads(options.results.read_text())["teachers"]}
    for name in options.names or known:
        made[name] = make(known[name], options.models, options.data, options.out)
        primary = next(iter(made[name]["metrics"].values()))
        floor = known[name].floor
        verdict = "" if floor is None else f", floor {floor} {'held' if primary['value'] >= floor else 'MISSED'}"
        print(f"{name}: {primary['name']} {primary['value']:.2f}{verdict}", file=sys.stderr)
        content = {"teachers": list(made.values()), **made_on()}
        options.results.parent.mkdir(parents=True, exist_ok=True)
        options.results.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
