"""From the folders of a study's jobs to its results: ``study.json``, tables, pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bertpress import __version__
from bertpress.measure.environment import environment
from bertpress.measure.statistics import rounded
from bertpress.report import run_page, study_page, survey_table
from bertpress.report.reading import mean, number
from bertpress.runfolder import RunFolder
from bertpress.study.evidence import Evidence, Run
from bertpress.study.jobs import ENTRY, FAILURE, TIMING, Job, read
from bertpress.study.known import Known
from bertpress.study.pareto import dominated
from bertpress.study.plan import Plan
from bertpress.study.survey import weigh
from bertpress.study.table import lines

COSTS = {
    "packed": (("engines", "torch", "weight_bytes"), ("weight_bytes",)),
    "size": (("weight_bytes",), ("weight_bytes",)),
    "latency": (("latency_ms", "median"), ("latency_ms", "median")),
}
"""What a drop is set against: the packed file, the file that the first engine loads, its latency there; keys of an
artifact and of its teacher."""


def gathered(
    plan: Plan,
    teachers: Mapping[Path, Job],
    runs: Mapping[Path, Job],
    known: Known,
    profiles: Mapping[str, Sequence[Mapping[str, Any]]],
    command: str,
) -> dict[str, Any]:
    """Everything that a study has found so far, as ``study.json`` holds it: figures rounded, settings whole."""
    machine = environment(threads=plan.threads)
    own = {place: {**entry, "device": machine["cpu"]["name"]} for place, entry in _own(teachers, runs, plan)}
    all_entries = {**known.entries, **own}
    entries = [
        {**rounded(entry), "recipe": entry["recipe"], "folder": str(place.relative_to(place.parents[3]))}
        for place in runs
        if (entry := all_entries.get(place)) is not None
    ]
    seen = {job.task.name: (read(place, ENTRY) or {}).get("vocabulary", {}) for place, job in teachers.items()}
    vocabularies = {**known.vocabularies, **seen}
    profiles = {**known.profiles, **profiles}
    verdicts = weigh(Evidence([Run(entry) for entry in entries], profiles, vocabularies))
    rows = {row.label: row.row_of_table_1() for row in plan.rows}
    figures = {
        "table": lines(entries, rows, plan.averaged) if entries else [],
        "fronts": [front for cost in COSTS for front in _fronts(entries, cost)],
        "claims": [verdict.model_dump(mode="json") for verdict in verdicts],
        "profiles": profiles,
        "vocabularies": vocabularies,
    }
    return {
        "bertpress": __version__,
        "study": plan.name,
        "summary": plan.summary,
        "command": command,
        "plan": plan.model_dump(mode="json"),
        "environment": machine,
        **rounded(figures),
        "entries": entries,
        "failures": list(_failures({**teachers, **runs})),
    }


def _own(teachers: Mapping[Path, Job], runs: Mapping[Path, Job], plan: Plan) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The entries of runs that were done here, with what the quiet phase measured of them and of their teachers."""
    clocks = {(job.model.name, job.task.name): read(place, TIMING) or {} for place, job in teachers.items()}
    for place, job in runs.items():
        if (entry := read(place, ENTRY)) is None:
            continue
        timed, teacher = read(place, TIMING) or {}, clocks[job.model.name, job.task.name]
        artifact = entry["artifact"]
        for engine, figures in artifact["engines"].items():
            figures |= timed.get(engine, {})
        first = next((engine for engine in plan.timing.engines if engine in artifact["engines"]), "torch")
        artifact |= artifact["engines"][first]
        entry["baseline"] |= teacher.get(first, {})
        for side, clock in (("artifact", timed), ("baseline", teacher)):
            if "gpu" in clock:
                entry[side]["gpu"] = clock["gpu"]
        yield place, entry


def _failures(jobs: Mapping[Path, Job]) -> Iterator[dict[str, Any]]:
    for place, job in jobs.items():
        if (found := read(place, FAILURE)) is not None:
            yield {"name": job.name, "folder": str(place.relative_to(place.parents[3 if job.row else 2])), **found}


def _fronts(entries: Sequence[Mapping[str, Any]], cost: str) -> Iterator[dict[str, Any]]:
    """Drop against a cost on each task: means over the seeds, the outermost bounds of their intervals."""
    of_artifact, of_teacher = COSTS[cost]
    models = {entry["model"] for entry in entries}
    for task in dict.fromkeys(entry["task"] for entry in entries):
        groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for entry in entries:
            if entry["task"] == task:
                groups.setdefault((entry["label"], entry["model"]), []).append(entry)
        points = []
        for (label, model), runs in groups.items():
            x = mean(runs, "artifact", *of_artifact)
            if x is not None:
                bounds = {end: [run["artifact"]["drop"][end] for run in runs] for end in ("low", "high")}
                points.append({
                    "label": label if len(models) == 1 else f"{label}, {model}", "cost": x,
                    "drop": mean(runs, "artifact", "drop", "value"),
                    "low": min(bounds["low"]), "high": max(bounds["high"]),
                })  # fmt: skip
        beaten = dominated([(point["cost"], point["drop"]) for point in points])
        level = next((x for e in entries if e["task"] == task and (x := number(e, "baseline", *of_teacher))), None)
        yield {
            "task": task,
            "cost": cost,
            "teacher": level,
            "points": [{**point, "dominated": is_beaten} for point, is_beaten in zip(points, beaten, strict=True)],
        }


def write(study: Mapping[str, Any], folder: RunFolder) -> None:
    """All files of the results: JSON, Markdown, CSV, LaTeX, the page of the study and one for each run."""
    folder.write("study.json", study)
    folder.write("table.md", survey_table.markdown(study["table"]))
    folder.write("table.csv", survey_table.as_csv(study["table"]))
    folder.write("table.tex", survey_table.latex(study["table"]))
    folder.write("study.html", study_page(study))
    for entry in study["entries"]:
        folder.write(f"{entry['folder']}/report.html", run_page({**entry, "command": study["command"]}))
