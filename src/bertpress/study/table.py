"""The table of a study, in the layout of the survey's Table 1: each published row, and beneath it the measured one.

Published figures are of the paper's model against BERT-base, measured ones of ours against our teacher; the two are
never averaged, ranked or drawn together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bertpress.report.reading import average, items, mapping, mean, number, text
from bertpress.study import published
from bertpress.study.evidence import Run

OWN = "Other recipes"


def lines(
    entries: Sequence[Mapping[str, Any]], rows: Mapping[str, str | None], averaged: Collection[str] | None = None
) -> list[dict[str, Any]]:
    """The rows of the table as plain data.

    Args:
        entries: finished runs.
        rows: the lines of the study with the published row that stands beside each.
        averaged: tasks that all but the scores are means over; None: all of a row's own, as for a row that has run on
            none of these.

    Returns:
        Objects with ``method``, ``origin`` (published or measured), ``group``, ``cite``, ``setup``, ``device``,
        ``size``, ``size_without``, ``of_bert_base``, ``peak_memory_bytes``, ``gpu``, ``cpu``, ``reference``,
        ``scores``, ``drop``, ``runs``, ``notes``; None where something was not measured.  Baselines first, then groups
        in the survey's order.
    """
    models = list(dict.fromkeys(entry["model"] for entry in entries))
    known = {row.method: row for row in published.ROWS}
    found = [_published(published.BERT_BASE)]
    found += [_baseline([entry for entry in entries if entry["model"] == model], averaged) for model in models]
    groups = dict.fromkeys([*(row.group for row in published.ROWS), OWN])
    for group in groups:
        for label, name in rows.items():
            row = known.get(name or "")
            if (row.group if row else OWN) != group:
                continue
            if row is not None and all(line["method"] != row.method or line["origin"] != "published" for line in found):
                found.append(_published(row))
            for model in models:
                runs = [entry for entry in entries if (entry["label"], entry["model"]) == (label, model)]
                if runs:
                    shown = label if len(models) == 1 else f"{label}, {model}"
                    found.append({**_measured(runs, averaged), "method": shown, "group": group})
    return found


def _published(row: published.Row) -> dict[str, Any]:
    return {
        "method": row.method, "origin": "published", "group": row.group, "cite": row.cite, "setup": row.setup or None,
        "device": row.device, "size": row.size, "size_without": row.size_without, "of_bert_base": row.size,
        "peak_memory_bytes": None, "gpu": row.gpu, "cpu": row.cpu, "reference": None,
        "scores": row.scores, "drop": row.drop, "runs": None, "notes": list(row.notes),
    }  # fmt: skip


def _baseline(entries: Sequence[Mapping[str, Any]], averaged: Collection[str] | None) -> dict[str, Any]:
    scores = {entry["task"]: number(entry, "baseline", "metric", "value") for entry in entries}
    entries = _counted(entries, averaged)
    return {
        "method": entries[0]["model"], "origin": "measured", "group": "", "cite": None, "setup": None,
        "device": _devices(entries),
        "size": 100.0, "size_without": 100.0, "of_bert_base": mean(entries, "baseline", "percent_of_bert_base"),
        "peak_memory_bytes": mean(entries, "baseline", "peak_memory_bytes"),
        "gpu": mean(entries, "baseline", "gpu", "speedup"), "cpu": mean(entries, "baseline", "speedup"),
        "reference": mean(entries, "baseline", "reference", "speedup"),
        "scores": scores, "drop": 0.0, "runs": None, "notes": [],
    }  # fmt: skip


def _counted(entries: Sequence[Mapping[str, Any]], averaged: Collection[str] | None) -> Sequence[Mapping[str, Any]]:
    """The runs on these tasks, or all where there are none."""
    return [entry for entry in entries if entry["task"] in (averaged or ())] or entries


def _by_task(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    tasks = dict.fromkeys(entry["task"] for entry in entries)
    return {task: [entry for entry in entries if entry["task"] == task] for task in tasks}


def _measured(entries: Sequence[Mapping[str, Any]], averaged: Collection[str] | None) -> dict[str, Any]:
    """Means over the seeds of each task; sizes, speed and drop then over the tasks."""
    scores = {task: mean(each, "artifact", "metric", "value") for task, each in _by_task(entries).items()}
    by_task = list(_by_task(_counted(entries, averaged)).values())
    runs = [[Run(entry) for entry in each] for each in by_task]

    def over_tasks(*path: str) -> float | None:
        return average([mean(each, "artifact", *path) for each in by_task])

    return {
        "origin": "measured", "cite": text(entries[0], "recipe", "cite"), "setup": setup(entries[0]),
        "device": _devices(entries),
        "size": average([average([run.percent for run in each]) for each in runs]),
        "size_without": average([average([run.percent_without for run in each]) for each in runs]),
        "of_bert_base": over_tasks("engines", "torch", "percent_of_bert_base"),
        "peak_memory_bytes": over_tasks("peak_memory_bytes"), "gpu": over_tasks("gpu", "speedup"),
        "cpu": over_tasks("speedup"), "reference": over_tasks("reference", "speedup"), "scores": scores,
        "drop": over_tasks("drop", "value"), "runs": len(entries), "notes": [],
    }  # fmt: skip


def _devices(entries: Sequence[Mapping[str, Any]]) -> str | None:
    """Processors that they were timed on; None where nobody wrote that down."""
    return ", ".join(dict.fromkeys(name for entry in entries if (name := text(entry, "device")))) or None


def setup(entry: Mapping[str, Any]) -> str:
    """A where text without labels is learnt from, S where the task is, both where both are.

    A recipe that learns nothing compresses what the task's teacher is: S.
    """
    kinds = {text(stage, "data") for stage in items(entry, "recipe", "stages") if mapping(stage, "train")}
    return ",".join(letter for letter, kind in (("A", "unlabelled"), ("S", "task")) if kind in kinds) or "S"
