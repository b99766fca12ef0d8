"""Figures without a run: time artifacts, profile a model, show the results of a run again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from typing_extensions import Unpack

from bertpress.artifact import Artifact
from bertpress.artifact.folder import machine_errors, write_file
from bertpress.encoder.imports import load_pretrained
from bertpress.encoder.sources import find
from bertpress.engines import Speed
from bertpress.errors import DataError, UserError
from bertpress.inputs import TaskOptions, folder_of, model_of, opened, rows_of, task_of
from bertpress.measure.bench import Candidate, interleave
from bertpress.measure.environment import environment, usable_cores
from bertpress.measure.picture import write_png
from bertpress.measure.profile import profile as measure_profile
from bertpress.measure.size import size
from bertpress.outcome import texts_of
from bertpress.report import profile_page, run_page
from bertpress.tasks import Task
from bertpress.tasks import load as load_rows

Progress: TypeAlias = Callable[[int, int], None]
Engine = Literal["torch", "onnxruntime", "openvino"]
TIMED_TEXTS = 256


def bench(
    artifacts: Sequence[str | Path | Artifact],
    *,
    baseline: str | Path,
    task: str | Task,
    data: Any = None,
    engine: Engine = "torch",
    threads: int | None = None,
    rounds: int = 25,
    seed: int = 0,
    speed: Speed | None = None,
    max_drop: float | None = None,
    lengths: Sequence[int] = (),
    command: str = "",
    progress: Progress | None = None,
    **options: Unpack[TaskOptions],
) -> dict[str, Any]:
    """Time artifacts against a model in PyTorch float32, interleaved, each in a process of its own.

    Args:
        artifacts: or their folders.
        baseline: hub name or folder of a model, run in PyTorch.
        task: whose validation texts are timed.
        data: folder of the splits, or rows in memory; the hub when None.
        engine: of the artifacts.
        threads: of every engine; all cores when None.
        rounds: blocks of texts that are timed with each candidate.
        seed: of the choice of texts.
        speed: of artifacts with early exits; see :meth:`bertpress.artifact.Artifact.predict`.
        max_drop: likewise.
        lengths: likewise, of the artifacts.
        command: kept in the result.
        progress: is told (steps done, steps in all).
        **options: changes to the task.

    Returns:
        ``baseline`` and ``artifacts`` (a list), each with latency, throughput, memory, size and ``speedup``;
        ``environment``, ``seed``, ``command``.
    """
    if not artifacts:
        raise UserError("bench: name at least one artifact")
    named, _ = task_of(task, None, options)
    folder = find(model_of(baseline)).folder
    if folder is None:
        raise UserError(f"bench: baseline {baseline} has no weights; name a folder or a model of the hub")
    made = [opened(artifact) for artifact in artifacts]
    for one in made:
        if one.task is not None and one.task.kind != named.kind:
            raise DataError(f"task {named.name}: is {named.kind}, but {one.path} is for {one.task.kind}")
    rows = None if isinstance(data, str | Path) else rows_of(data, "validation")
    if rows is None:
        rows = load_rows(named, "validation", folder_of(data), labelled=False)
    texts = texts_of(named, rows.limit(TIMED_TEXTS, seed))
    candidates = [
        Candidate(str(baseline), folder, "torch"),
        *(Candidate(str(one.path), one.path, engine, one.exit_speed(speed, max_drop), tuple(lengths)) for one in made),
    ]
    workers = threads or usable_cores()
    timed = interleave(
        candidates,
        texts,
        threads=workers,
        rounds=rounds,
        max_length=named.max_length,
        progress=progress,
    )
    teacher_bytes = size(folder).weight_bytes
    for candidate, figures in zip(candidates, timed, strict=True):
        figures.update(size(candidate.path, candidate.engine).as_keys(teacher_bytes))
    return {
        "task": named.name,
        "baseline": timed[0],
        "artifacts": timed[1:],
        "environment": environment(threads=workers, seed=seed),
        "seed": seed,
        "command": command,
    }


def profile(
    model: str | Path,
    *,
    tokens: int | Sequence[int] = (256, 128),
    batch: int = 1,
    threads: int | None = None,
    device: str = "cpu",
    rounds: int = 30,
    seed: int = 0,
    command: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure where parameters, arithmetic, memory and time of a model go.

    Args:
        model: hub name, folder, artifact, or a shape such as ``shape:bert-base``.
        tokens: length of the input, or several.
        batch: rows of the input.
        threads: of PyTorch; all cores when None.
        device: ``cpu`` or ``cuda``.
        rounds: samples of each latency.
        seed: of the random token ids.
        command: kept in the result.
        progress: is told (rounds done, rounds in all).

    Returns:
        Totals, ``components``, ``lengths``, ``environment``; see :func:`bertpress.measure.profile.profile`.
    """
    figures = measure_profile(
        load_pretrained(model_of(model)).model,
        name=str(model),
        tokens=tokens,
        batch=batch,
        threads=threads,
        device=device,
        rounds=rounds,
        seed=seed,
        progress=progress,
    )
    return {**figures, "seed": seed, "command": command}


def draw_profile(
    figures: dict[str, Any], *, png: str | Path | None = None, html: str | Path | None = None
) -> list[Path]:
    """Write what :func:`profile` measured as a picture, as a page, or both; returns the files."""
    written = []
    for path, write in ((png, write_png), (html, _write_html)):
        if path is not None:
            with machine_errors(Path(path)):
                write(figures, Path(path))
            written.append(Path(path))
    return written


def _write_html(figures: dict[str, Any], path: Path) -> None:
    write_file(path, profile_page(figures))


def report(run: str | Path, *, out: str | Path | None = None) -> Path:
    """Write the page of a run again from its ``results.json``.

    Args:
        run: folder of the run.
        out: the HTML file; ``report.html`` in the folder when None.
    """
    place = Path(out) if out is not None else Path(run) / "report.html"
    write_file(place, run_page(results(run)))
    return place


def results(run: str | Path) -> dict[str, Any]:
    """The figures of a finished run.

    Raises:
        UserError: the folder holds none.
    """
    place = Path(run) / "results.json"
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{run}: has no results.json, so no finished run") from None
    except ValueError as error:
        raise UserError(f"{place}: is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{place}: must hold an object")
    if not any(found.get(key) for key in ("artifact", "metric", "metrics")):
        raise UserError(f"{place}: holds no figures of a run: artifact, metric or metrics")
    return found
