"""The twelve sub-networks of one training of DynaBERT, and three of them against networks trained alone.

    python benchmarks/prune.py --data DIR --tasks sst2 --only "DynaBERT, 0.5 x 0.75, longer"
    python benchmarks/subnetworks.py --data DIR [--row "DynaBERT, 0.5 x 0.75"]

The first command trains; its run folder has the model with all widths and depths.  A network of the same shape is cut
out of the teacher by the same importances, and trained by itself on as many examples as other recipes see in profile
``small``.  Writes results/subnetworks.json.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from comparison import Row, arguments, place_of, run, save

from bertpress import artifact
from bertpress.measure.environment import usable_cores
from bertpress.outcome import subnetworks

TASKS = ("sst2",)
ROW = "DynaBERT, 0.5 x 0.75, longer"  # of benchmarks/prune.py
ALONE = str(Path(__file__).with_name("alone.yaml"))
CHECKED = ((1.0, 0.5), (0.5, 1.0), (0.5, 0.5))  # width, depth
BAR = 1.0  # points


def alone(width: float, depth: float) -> Row:
    """A row that trains one shape by itself."""
    return Row(ALONE, {"stages.0.use.0.width": width, "stages.0.use.0.depth": depth})


def main() -> int:
    """Score all, train three, compare."""
    parser = arguments(__doc__, TASKS, "subnetworks")
    parser.add_argument("--trained", type=Path, default=Path("runs/prune"), help="folder of benchmarks/prune.py")
    parser.add_argument("--row", default=ROW, help="of benchmarks/prune.py")
    options = parser.parse_args()
    tasks: dict[str, Any] = {}
    for task in options.tasks:
        options_there = type(options)(**{**vars(options), "out": options.trained})
        whole = artifact.load(place_of(options_there, options.row, task, 0) / "stages/03-labels/model")
        found = subnetworks(whole, options.data, threads=usable_cores())
        score = {(each["width"], each["depth"]): each["metric"]["value"] for each in found}
        checked = []
        for width, depth in CHECKED:
            entry = run(f"alone, {width} x {depth}", alone(width, depth), task, 0, options)
            lacking = entry["metric"]["value"] - score[width, depth]
            figures = {"alone": entry["metric"], "sub_network": score[width, depth], "lacking": lacking}
            checked.append({"width": width, "depth": depth, **figures, "met": lacking <= BAR})
            print(f"{task}, {width} x {depth}: {lacking:+.2f} points under a network trained alone", file=sys.stderr)
        tasks[task] = {"subnetworks": found, "against_networks_trained_alone": checked, "bar": BAR}
        save(options, {"row": options.row, "tasks": tasks})
    return 0


if __name__ == "__main__":
    sys.exit(main())
