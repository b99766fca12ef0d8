"""What the command line does, for Python, under the same names.  Thin: everything is done a floor below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from typing_extensions import Unpack

from bertpress import runner
from bertpress.advice.conduct import advise
from bertpress.artifact import Artifact
from bertpress.demo import prepare
from bertpress.engines import Speed
from bertpress.errors import ArtifactError
from bertpress.inputs import TaskOptions, folder_of, model_of, opened, recipe_of, rows_of, task_for, task_of, texts_of
from bertpress.listing import methods, recipes
from bertpress.measure.environment import environment, usable_cores
from bertpress.measuring import Engine, bench, draw_profile, profile, report, results
from bertpress.methods.registry import register
from bertpress.predicting import predict
from bertpress.recipe import Recipe
from bertpress.search.conduct import search
from bertpress.study.conduct import study
from bertpress.tasks import Task, UserMetric
from bertpress.training import TrainSettings

__all__ = [
    "Artifact",
    "Recipe",
    "Task",
    "advise",
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
    "search",
    "study",
    "train",
]

Say: TypeAlias = Callable[[str], None]
Target = Literal["openvino", "onnx", "transformers"]

RUNS = Path("runs")


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
    unlabelled: Any = None,
    cache: str | Path | None = None,
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
        unlabelled: texts for stages without labels: a file, a folder or a list; the train splits of ``data`` when None.
        cache: folder of teachers' answers, which runs may share; one of the run's own when None.
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
        unlabelled=texts_of(unlabelled),
        cache=folder_of(cache),
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
    speed: Speed | None = None,
    max_drop: float | None = None,
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
        speed: of early exits; see :meth:`bertpress.artifact.Artifact.predict`.
        max_drop: likewise.
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
        speed=speed,
        max_drop=max_drop,
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


def export(
    artifact: str | Path | Artifact,
    *,
    to: Target,
    out: str | Path | None = None,
    width: float | None = None,
    depth: float | None = None,
) -> Path:
    """Write an artifact for a runtime, or as a plain transformers model where its shape is uniform.

    Args:
        artifact: or its folder.
        to: ``openvino``, ``onnx`` or ``transformers``.
        out: folder; None puts OpenVINO and ONNX files into the artifact itself.
        width: of a model with sub-networks: ``out`` becomes an artifact of this one, its export in it.
        depth: likewise.

    Raises:
        ArtifactError: there is no such sub-network, or no folder for it.
    """
    made = opened(artifact)
    if width is None and depth is None:
        return made.export(to, out)
    if out is None or to == "transformers":
        wanted = "a folder of its own" if out is None else "to=openvino or onnx; export the artifact that this makes"
        raise ArtifactError(f"export of a sub-network: needs {wanted}")
    alone = made.subnetwork(out, width=1.0 if width is None else width, depth=1.0 if depth is None else depth)
    alone.export(to)
    return alone.path


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
