"""What `bertpress advise` says of the studied model, beside what the study has measured of it.

    python benchmarks/advice.py STUDY_FOLDER [--data DIR] [--out results/advice.json]

STUDY_FOLDER is where ``bertpress study studies/table1.yaml`` has run.  For each task with a front and for each need and
permitted loss, the first advice that fits is looked up in the study: whether another recipe of the study is better in
the drop and in what is short, and how far the expected size and latency are from the measured ones.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bertpress import advise
from bertpress.measure.environment import environment
from bertpress.study.outputs import COSTS

NEEDS = {"latency": "latency", "size": "size"}
"""Needs of advice by the costs of fronts."""
DROPS = (0.5, 1.0, 2.0, 3.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("results/advice.json"))
    given = parser.parse_args()
    study = json.loads((given.study / "study.json").read_text(encoding="utf-8"))
    rows = [row for front in study["fronts"] for row in checked(front, study, given.study, given.data)]
    for row in rows:
        print(line(row))
    found = {"rows": rows, "environment": environment(), "command": f"python benchmarks/advice.py {given.study}"}
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def checked(front: Mapping[str, Any], study: Mapping[str, Any], folder: Path, data: Path) -> Iterator[dict[str, Any]]:
    """The first advice for a task and what is short, for each permitted loss."""
    task, cost = front["task"], front["cost"]
    teachers = list((folder / "teachers").glob(f"*/{task}/run/model"))
    points = {point["label"]: point for point in front["points"]}
    for drop in DROPS:
        given = advise(teachers[0], need=NEEDS[cost], max_drop=drop, task=task, data=data / task)["advice"]
        first = next((each for each in given if each["fits"]), given[0])
        row = {"task": task, "need": cost, "max_drop": drop, "recipe": first["recipe"], "expected_drop": first["drop"]}
        if (point := points.get(first["recipe"])) is None:
            yield {**row, "studied": False}
            continue
        expected = first["bytes"] if cost == "size" else first["latency_ms"]
        measured = of_the_model(study, task, first["recipe"], cost)
        yield {
            **row, "studied": True, "drop": point["drop"], "on_the_front": not point["dominated"],
            "beaten_by": [] if not point["dominated"] else beaten_by(point, front["points"]),
            "expected": expected, "measured": measured, "off": expected / measured - 1 if measured else None,
        }  # fmt: skip


def beaten_by(point: Mapping[str, Any], others: list[dict[str, Any]]) -> list[str]:
    """Which recipes are at least as good in both."""
    return [o["label"] for o in others if o["drop"] <= point["drop"] and o["cost"] <= point["cost"] and o is not point]


def of_the_model(study: Mapping[str, Any], task: str, recipe: str, cost: str) -> float | None:
    """Bytes of the file, or milliseconds of the model without the tokenizer, which is what advice expects."""
    keys = ("model_latency_ms", "median") if cost == "latency" else COSTS[cost]
    for entry in study["entries"]:
        if (entry["task"], entry["label"]) == (task, recipe):
            found: Any = entry["artifact"]["engines"]["torch"] if cost == "size" else entry["artifact"]
            for key in keys:
                found = (found or {}).get(key)
            return None if found is None else float(found)
    return None


def line(row: Mapping[str, Any]) -> str:
    """For people."""
    head = f"{row['task']}, {row['need']}, at most {row['max_drop']:g} points: {row['recipe']}"
    if not row["studied"]:
        return f"{head}, not in the study"
    where = "on the front" if row["on_the_front"] else f"beaten by {', '.join(row['beaten_by'])}"
    off = "" if row["off"] is None else f", expected {row['off']:+.0%} of the measured {row['need']}"
    return f"{head}, lost {row['drop']:.2f}, {where}{off}"


if __name__ == "__main__":
    main()
