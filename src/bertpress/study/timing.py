"""The quiet phase: once all runs have ended, their artifacts are timed by turns with the teacher they came from.

Speed-up is over the teacher on the same engine, so that what an engine gains by itself is not counted for a method.
Where the study names a reference, such as a model of BERT-base's size, there is another one over it, which counts both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertpress import artifact, tasks
from bertpress.artifact.folder import write_file
from bertpress.encoder.imports import load_pretrained
from bertpress.errors import BertpressError
from bertpress.measure.bench import Candidate, interleave
from bertpress.measure.environment import gpu_name, usable_cores
from bertpress.measure.profile import profile
from bertpress.measure.statistics import paired_ratio
from bertpress.measure.texts import Text
from bertpress.outcome import TIMED_TEXTS, texts_of
from bertpress.runner import Say
from bertpress.study.jobs import ENTRY, TIMING, Job, model_in, read
from bertpress.study.plan import Timing
from bertpress.training.progress import Meter

PROFILED_TOKENS = 256


def time_runs(jobs: Mapping[Path, Job], teachers: Mapping[Path, Job], timing: Timing, say: Say) -> None:
    """Time one artifact of every line on every task, unless that has been done; results lie beside the entries.

    Args:
        jobs: all runs by their folders, of which those without an entry are left out; of several seeds the first is
            timed.
        teachers: of their tasks, likewise.
        timing: engines, rounds, and how many are timed together.
        say: shows one line of progress.
    """
    for place, teacher in teachers.items():
        chosen: dict[str, Path] = {}
        for run, job in jobs.items():
            if (job.model, job.task) == (teacher.model, teacher.task) and (run / ENTRY).is_file():
                assert job.row is not None
                chosen.setdefault(job.row.label, run)
        if not chosen or not (place / ENTRY).is_file():
            continue
        texts, large = _texts(teacher), _reference(timing, teacher)
        for engine in timing.engines:
            waiting = [
                run
                for run in chosen.values()
                if _runs_on(run, engine) and not _timed(run, engine, timing.reference if large else None)
            ]
            for start in range(0, len(waiting), timing.together):
                say(f"timing on {engine}: {teacher.model.name}, {teacher.task.name}")
                together = [place, *waiting[start : start + timing.together]]
                _time(together, engine, texts, teacher, timing.rounds, large)
        if gpu_name() is not None:
            _time_on_gpu([place, *chosen.values()], timing.rounds)


def _timed(run: Path, engine: str, reference: str | None) -> bool:
    """Whether that has been done, and against this reference."""
    known: dict[str, Any] = (read(run, TIMING) or {}).get(engine, {})
    beside = known.get("reference", {}).get("name")
    return bool(known) and (reference is None or "error" in known or beside == reference)


def _reference(timing: Timing, job: Job) -> Candidate | None:
    """What everything is also timed against, where it answers tasks of this kind."""
    if timing.reference is None:
        return None
    made = artifact.load(timing.reference, verify=False)
    if made.task is None or made.task.kind != job.task.resolve().kind:
        return None
    return Candidate(timing.reference, made.path)


def _runs_on(run: Path, engine: str) -> bool:
    return engine in (read(run, ENTRY) or {})["artifact"]["engines"]


def _texts(job: Job) -> list[Text]:
    task = job.task.resolve()
    rows = tasks.load(task, "validation", job.data_folder, job.task.validation_limit, labelled=False)
    return texts_of(task, rows.limit(TIMED_TEXTS, 0))


def _time(
    places: Sequence[Path], engine: str, texts: Sequence[Text], job: Job, rounds: int, large: Candidate | None
) -> None:
    """Time a teacher and some artifacts; where one of them fails, each goes with the teacher alone."""
    candidates = [Candidate(place.name, model_in(place), engine) for place in places]
    try:
        found = interleave(
            [*candidates, large] if large else candidates, texts, threads=job.threads or usable_cores(), rounds=rounds,
            max_length=job.task.resolve().max_length, progress=Meter("timing").advance,
        )  # fmt: skip
    except BertpressError as fault:
        if len(places) == 2:
            _keep(places[1], engine, {"error": str(fault)})
            return
        for place in places[1:]:
            _time([places[0], place], engine, texts, job, rounds, large)
        return
    for place, figures in zip(places, found, strict=False):
        if large:
            figures["reference"] = over(figures, found[-1])
        if place != places[0] or not _timed(place, engine, large.name if large else None):
            _keep(place, engine, {key: value for key, value in figures.items() if key not in ("name", "tokens")})


def over(figures: Mapping[str, Any], large: Mapping[str, Any]) -> dict[str, Any]:
    """How much faster a candidate is than another, round by round, from what both are to the same baseline.

    >>> over({"speedup_samples": [4.0, 8.0]}, {"speedup_samples": [0.5, 0.5], "name": "a", "latency_ms": {}})["speedup"]
    12.0
    """
    ratio = paired_ratio(figures["speedup_samples"], large["speedup_samples"])
    return {
        "name": large["name"], "latency_ms": large["latency_ms"], "speedup": ratio.value,
        "speedup_interval": [ratio.low, ratio.high], "speedup_samples": list(ratio.samples),
    }  # fmt: skip


def _keep(place: Path, engine: str, figures: Mapping[str, Any]) -> None:
    known = read(place, TIMING) or {}
    write_file(place / TIMING, json.dumps({**known, engine: figures}) + "\n")


def _time_on_gpu(places: Sequence[Path], rounds: int) -> None:
    """Latency of whole models on the first GPU, one input of 128 tokens, as :mod:`bertpress.measure.profile` has it."""
    for place in places:
        if "gpu" not in (read(place, TIMING) or {}):
            model = load_pretrained(model_in(place)).model
            tokens = min(128, model.blueprint.longest_input or 128)
            latency = profile(model, tokens=tokens, device="cuda", rounds=rounds)["latency_ms"]
            first = (read(places[0], TIMING) or {}).get("gpu", {}).get("latency_ms", latency)
            _keep(place, "gpu", {"latency_ms": latency, "speedup": first["median"] / latency["median"]})


def profile_teachers(teachers: Mapping[Path, Job], rounds: int, say: Say) -> dict[str, list[dict[str, Any]]]:
    """Where the time of each model goes, on the CPU and, where there is one, on the GPU; its first teacher is taken."""
    found: dict[str, list[dict[str, Any]]] = {}
    for place, job in teachers.items():
        if job.model.name in found or not (place / ENTRY).is_file():
            continue
        if (known := read(place, "profile.json")) is None:
            say(f"profiling {job.model.name}")
            devices = ("cpu",) if gpu_name() is None else ("cpu", "cuda")
            known = {"profiles": [_profile(place, job, device, rounds) for device in devices]}
            write_file(place / "profile.json", json.dumps(known) + "\n")
        found[job.model.name] = known["profiles"]
    return found


def _profile(place: Path, job: Job, device: str, rounds: int) -> dict[str, Any]:
    model = load_pretrained(model_in(place)).model
    tokens = min(PROFILED_TOKENS, model.blueprint.longest_input or PROFILED_TOKENS)
    found = profile(model, name=job.model.name, tokens=tokens, device=device, threads=job.threads, rounds=rounds)
    return {key: value for key, value in found.items() if key != "lengths"}
