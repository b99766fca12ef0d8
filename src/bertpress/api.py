"""What the command line does, for Python, under the same names.  Thin: everything is done a floor below."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from typing_extensions import Unpack

from bertpress import runner
from bertpress.artifact import Artifact
from bertpress.artifact.folder import machine_errors
from bertpress.demo import prepare
from bertpress.encoder.imports import load_pretrained
from bertpress.encoder.sources import find
from bertpress.errors import UserError
from bertpress.inputs import TaskOptions, folder_of, model_of, opened, recipe_of, rows_of, task_for, task_of
from bertpress.listing import methods, recipes
from bertpress.measure.bench import Candidate, interleave
from bertpress.measure.environment import environment, usable_cores
from bertpress.measure.picture import write_png
from bertpress.measure.profile import profile as measure_profile
from bertpress.measure.size import size
from bertpress.methods.registry import register
from bertpress.outcome import texts_of
from bertpress.recipe import Recipe
from bertpress.report import profile_page, run_page
from bertpress.tasks import Rows, Task, UserMetric
from bertpress.tasks import load as load_rows
from bertpress.training import TrainSettings

__all__ = [
    "Artifact",
    "Recipe",
    "Task",
    "bench",
    "compress",
    "demo",
    "draw_profile",
    "evaluate",
    "export",
    "load",
    "methods",
    "predict",
    "profile",
    "recipes",
    "register",
    "report",
    "results",
    "train",
]

Say: TypeAlias = Callable[[str], None]
Progress: TypeAlias = Callable[[int, int], None]
Engine = Literal["torch", "onnxruntime", "openvino"]
Target = Literal["openvino", "onnx", "transformers"]

RUNS = Path("runs")
TIMED_TEXTS = 256


def quiet(line: str) -> None:
    """Say nothing."""


def compress(
    model: str | Path,
    *,
    task: str | Task,
    recipe: str | Path | dict[str, Any] | Recipe = "quick",
    train: Any = None,
    validation: Any = None,
    data: str | Path | None = None,
    out: str | Path | None = None,
    teacher: str | Path | None = None,
    metric: str | UserMetric | None = None,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    seed: int = 0,
    resume: bool = False,
    threads: int | None = None,
    train_limit: int | None = None,
    validation_limit: int | None = None,
    report_to: Sequence[str] = (),
    command: str | None = None,
    say: Say = quiet,
    **options: Unpack[TaskOptions],
) -> Artifact:
    """Compress a model with a recipe, and measure what came out.

    Args:
        model: hub name or folder; one that is not fine-tuned for the task is fine-tuned first.
        task: a name such as ``sst2`` or ``text-classification``, or a task.
        recipe: a shipped recipe's name, a YAML file, plain data, or a recipe.
        train: ``datasets.Dataset``, list of mappings, mapping of columns, or rows; in place of ``data``.
        validation: likewise.
        data: folder of the task's splits; without it, and without ``train``, the hub is asked.
        out: folder of the run; ``runs/RECIPE-TASK`` when None.
        teacher: a fine-tuned model to learn from and to be measured against; the model itself when None.
        metric: name of a metric of the task, or a function of (predictions, references), higher is better.
        profile: of the recipe.
        overrides: ``path=value``, such as ``stages.0.train.epochs=1``.
        seed: of everything random.
        resume: go on with the run in ``out``.
        threads: of everything that is timed; all cores when None.
        train_limit: at most so many training rows.
        validation_limit: at most so many validation rows.
        report_to: trackers of transformers, such as ``tensorboard``.
        command: what repeats this run, for the report.
        say: is told what happens, a line at a time.
        **options: changes to the task.

    Returns:
        The artifact.  Beside its folder lie ``results.json`` and ``report.html``.

    Raises:
        UserError: the input is wrong; the message is one line.
        Interrupted: stopped by Ctrl-C; the same call with ``resume=True`` goes on.
    """
    chosen = recipe_of(recipe, profile=profile, overrides=overrides, report_to=report_to)
    named, own_metric = task_of(task, metric, options)
    folder = Path(out) if out is not None else RUNS / f"{chosen.name}-{named.name}"
    request = runner.Request(
        model=model_of(model),
        recipe=chosen,
        task=named,
        out=folder,
        data=folder_of(data),
        teacher=None if teacher is None else model_of(teacher),
        seed=seed,
        resume=resume,
        threads=threads,
        command=command if command is not None else _call(model, chosen, named, folder, seed),
        train=rows_of(train, "train"),
        validation=rows_of(validation, "validation"),
        metric=own_metric,
        train_limit=train_limit,
        validation_limit=validation_limit,
    )
    runner.run(request, say)
    return opened(folder, verify=False)


def train(
    model: str | Path,
    *,
    task: str | Task,
    out: str | Path,
    train: Any = None,
    validation: Any = None,
    data: str | Path | None = None,
    settings: TrainSettings | None = None,
    metric: str | UserMetric | None = None,
    seed: int = 0,
    resume: bool = False,
    train_limit: int | None = None,
    validation_limit: int | None = None,
    command: str = "",
    say: Say = quiet,
    **options: Unpack[TaskOptions],
) -> dict[str, Any]:
    """Fine-tune a model on a task, which makes a teacher; arguments as for :func:`compress`.

    Returns:
        ``path`` of the artifact, ``metric`` and ``metrics`` on validation, ``train``, ``environment``, ``seed``,
        ``command``.
    """
    named, own_metric = task_of(task, metric, options)
    return runner.fine_tune(
        model_of(model),
        named,
        Path(out),
        data=folder_of(data),
        settings=settings,
        seed=seed,
        resume=resume,
        command=command,
        train=rows_of(train, "train"),
        validation=rows_of(validation, "validation"),
        metric=own_metric,
        train_limit=train_limit,
        validation_limit=validation_limit,
        say=say,
    )


def load(artifact: str | Path, *, verify: bool = True) -> Artifact:
    """Open an artifact, or the one in a run's folder.

    Args:
        artifact: folder of the artifact or of the run.
        verify: compare every file with its hash.

    Raises:
        ArtifactError: there is none, or a file is missing or was changed.
    """
    return opened(artifact, verify=verify)


def evaluate(
    artifact: str | Path | Artifact,
    *,
    task: str | Task | None = None,
    data: Any = None,
    split: str = "validation",
    engine: Engine = "torch",
    metric: str | UserMetric | None = None,
    threads: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    command: str = "",
    **options: Unpack[TaskOptions],
) -> dict[str, Any]:
    """Score an artifact from disk.

    Args:
        artifact: or its folder.
        task: the artifact's own when None; a name is given the artifact's labels.
        data: folder of the splits, or labelled rows in memory; the hub when None.
        split: of ``data``.
        engine: what runs the artifact.
        metric: as for :func:`compress`.
        threads: of the engine; all cores when None.
        limit: score at most so many rows.
        seed: of the bootstrap.
        command: kept in the result.
        **options: changes to the task.

    Returns:
        ``metric`` (the primary one), ``metrics``, ``task``, ``engine``, ``threads``, ``environment``, ``seed``,
        ``command``.
    """
    made = opened(artifact)
    named, own_metric = task_for(made, task, metric, options)
    rows = data if data is None or isinstance(data, str | Path) else rows_of(data, split)
    scores = made.evaluate(
        rows,
        task=named,
        split=split,
        engine=engine,
        threads=threads,
        limit=limit,
        seed=seed,
        metric=own_metric,
    )
    plain = {name: score.model_dump(mode="json") for name, score in scores.items()}
    return {
        "artifact": str(made.path),
        "task": named.name,
        "engine": engine,
        "threads": threads or usable_cores(),
        "metric": next(iter(plain.values())),
        "metrics": plain,
        "environment": environment(threads=threads, seed=seed),
        "seed": seed,
        "command": command,
    }


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
    if data is None or isinstance(data, str | Path):
        rows = load_rows(named, "validation", folder_of(data), labelled=False)
    else:
        rows = rows_of(data, "validation")
    texts = texts_of(named, rows.limit(TIMED_TEXTS, seed))
    candidates = [
        Candidate(str(baseline), folder, "torch"),
        *(Candidate(str(one.path), one.path, engine) for one in made),
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


def predict(
    artifact: str | Path | Artifact,
    texts: Iterable[Any],
    *,
    engine: Engine = "torch",
    batch_size: int = 32,
    threads: int | None = None,
) -> Iterator[Any]:
    """Answer texts as they come; see :meth:`bertpress.artifact.Artifact.predict`."""
    return opened(artifact).predict(texts, engine=engine, batch_size=batch_size, threads=threads)


def export(artifact: str | Path | Artifact, *, to: Target, out: str | Path | None = None) -> Path:
    """Write an artifact for a runtime, or as a plain transformers model where its shape is uniform.

    Args:
        artifact: or its folder.
        to: ``openvino``, ``onnx`` or ``transformers``.
        out: folder; None puts OpenVINO and ONNX files into the artifact itself.
    """
    return opened(artifact).export(to, out)


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
    path.write_text(profile_page(figures), encoding="utf-8")


def report(run: str | Path, *, out: str | Path | None = None) -> Path:
    """Write the page of a run again from its ``results.json``.

    Args:
        run: folder of the run.
        out: the HTML file; ``report.html`` in the folder when None.
    """
    place = Path(out) if out is not None else Path(run) / "report.html"
    page = run_page(results(run))
    with machine_errors(place):
        place.write_text(page, encoding="utf-8")
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
    return found


def demo(out: str | Path = RUNS / "demo", **options: Any) -> Artifact:
    """Compress MiniLM-L6 on BBC news topics with the recipe ``quick``: a real model and real data, no hub needed.

    Args:
        out: folder of the run; the data are put beside it, in ``OUT-data``.
        **options: of :func:`compress`.

    Raises:
        EngineError: the packages of the extra ``demo`` are not installed.
    """
    place = prepare(Path(out).with_name(f"{Path(out).name}-data"))
    given = {"model": place.model, "task": "text-classification", "data": place.data, "out": out, **options}
    return compress(**given)


def _call(model: str | Path, recipe: Recipe, task: Task, out: Path, seed: int) -> str:
    """The call in Python, where no command line was given."""
    return (
        f"bertpress.compress({str(model)!r}, recipe={recipe.name!r}, task={task.name!r}, "
        f"out={str(out)!r}, seed={seed}, ...)"
    )
