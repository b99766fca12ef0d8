"""The process that does one job of a study: ``python -m bertpress.study.worker FOLDER``.

It ends with the process that started it: while that one lives, it holds the other end of standard input open.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bertpress import __version__, artifact, tasks
from bertpress.artifact import Artifact
from bertpress.data import load_data
from bertpress.encoder.imports import tokenizer_of
from bertpress.errors import BertpressError
from bertpress.inputs import folder_of, model_of
from bertpress.measure.environment import environment
from bertpress.measure.memory import peak_resident_bytes
from bertpress.measure.texts import Reader
from bertpress.outcome import ENGINES, TIMED_TEXTS, answers, figures, scores, texts_of
from bertpress.recipe import Recipe
from bertpress.runfolder import RunFolder
from bertpress.runner import Pressed, Request, fine_tune, pressing
from bertpress.study.jobs import ENTRY, JOB, RUN, Job, model_in, read
from bertpress.study.vocabulary import coverage
from bertpress.supervision import answering
from bertpress.teacher import trained_model
from bertpress.training import TrainSettings

BASELINE = "measured/baseline-torch.json"
RUNTIMES = {engine: runtime for runtime, engine in ENGINES.items()}


def say(line: str) -> None:
    """A line for the job's log."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def do(place: Path) -> None:
    """Do the job in a folder; its entry is there afterwards.

    Raises:
        UserError: something that the job names is not usable.
    """
    job = Job.model_validate(read(place, JOB))
    entry = make_teacher(job, place) if job.kind == "teacher" else run(job, place)
    RunFolder(place).write(ENTRY, {**entry, "environment": environment(threads=job.threads, seed=job.seed)})


def make_teacher(job: Job, place: Path) -> dict[str, Any]:
    """Train a teacher, or take the one that is given; either becomes an artifact."""
    request = _request(job, place / RUN, job.model.path)
    folder = model_in(place)
    if not folder.is_dir():
        if job.teacher is None:
            fine_tune(
                request.model, request.task, request.out, data=request.data, settings=TrainSettings(**job.recipe),
                seed=job.seed, resume=request.resume, say=say, train_limit=request.train_limit,
                validation_limit=request.validation_limit,
            )  # fmt: skip
        else:
            given = model_of(job.teacher)
            known = load_data(replace(request, model=given)).task
            source = trained_model(given, known)
            teacher = answering(source, known, f"teacher {job.teacher}")
            artifact.save(teacher, tokenizer_of(source), known, folder, seed=job.seed)
    made = artifact.load(folder)
    export(made, job)
    task = made.task
    assert task is not None
    validation = tasks.load(task, "validation", request.data, request.validation_limit)
    found = made.evaluate(validation, task=task, threads=job.threads)
    train = tasks.load(task, "train", request.data, request.train_limit)
    return {
        "metric": next(iter(found.values())).model_dump(mode="json"),
        "vocabulary": coverage(tasks.texts_of(task.text_columns, train), made.tokenizer),
    }


def run(job: Job, place: Path) -> dict[str, Any]:
    """Compress, export and score."""
    assert job.row is not None
    assert job.teacher is not None
    fresh = job.row.start == "pretrained"
    request = _request(job, place / RUN, job.model.path if fresh else job.teacher, job.teacher if fresh else None)
    began, worked = time.monotonic(), time.process_time()
    with pressing(request, say) as made:
        spent = {"wall_seconds": time.monotonic() - began, "processor_seconds": time.process_time() - worked}
        learnt = peak_resident_bytes()
        errors = export(made.artifact, job)
        engines = list(dict.fromkeys([*(engine for engine in job.engines if engine not in errors), "torch"]))
        teacher = artifact.load(job.teacher, verify=False)
        made.folder.once(BASELINE, lambda: _of_the_teacher(request, made, teacher))
        found = answers(request, made.folder, made.data, teacher, made.artifact, engines, say)
        times = [{"engine": engine} for engine in ("torch", *engines)]
        outcome = figures(request, made.data, teacher, made.artifact, found, times, mean_tokens(request, made))
        outcome["baseline"] |= {"name": job.model.name, "hidden_size": teacher.blueprint.hidden_size}
        outcome["artifact"] |= {"hidden_size": made.artifact.blueprint.hidden_size, "errors": errors}
        return {
            "bertpress": __version__,
            **job.described(),
            **outcome,
            "stages": made.stages,
            **spent,
            "training_peak_bytes": learnt,
        }


def _of_the_teacher(request: Request, made: Pressed, teacher: Artifact) -> dict[str, Any]:
    """Its answers, which all runs of a task share."""
    truth = tasks.references(made.data.task, made.data.validation)
    shared = RunFolder(teacher.path.parent.parent)
    return shared.once("answers.json", lambda: scores(request, made.data, teacher, "torch", truth))


def _request(job: Job, out: Path, model: str, teacher: str | None = None) -> Request:
    """The job in the words of the runner."""
    recipe = Recipe.parse(dict(job.recipe)) if job.row else Recipe.parse({"name": "teacher", "stages": [{"train": {}}]})
    return Request(
        model=model_of(model), recipe=recipe, task=job.task.resolve(), out=out, data=job.data_folder, teacher=teacher,
        seed=job.seed, resume=(out / "run.json").is_file(), threads=job.threads, train_limit=job.task.train_limit,
        validation_limit=job.task.validation_limit, unlabelled=folder_of(job.unlabelled),
    )  # fmt: skip


def export(made: Artifact, job: Job) -> dict[str, str]:
    """Export an artifact to the engines of a job.

    Returns:
        What went wrong, by engine: not every engine can run every model.
    """
    errors: dict[str, str] = {}
    for engine in job.engines:
        if engine in RUNTIMES and RUNTIMES[engine] not in made.exports:
            say(f"exporting to {RUNTIMES[engine]}")
            try:
                made.export(RUNTIMES[engine])
            except BertpressError as fault:
                errors[engine] = str(fault)
    return errors


def mean_tokens(request: Request, made: Pressed) -> int:
    """Mean length of the texts that will be timed."""
    reader = Reader(made.artifact.path, made.data.task.max_length)
    texts = texts_of(made.data.task, made.data.validation.limit(TIMED_TEXTS, request.seed))
    lengths = [len(one["input_ids"]) for text in texts for one in reader.features(text)]
    return round(sum(lengths) / len(lengths))


def end_with_the_parent() -> None:
    """Kill this process and its children once standard input ends, which is when the starter has died."""

    def wait() -> None:
        while os.read(0, 1):  # without the lock of sys.stdin, which must be free when Python ends
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def main() -> int:
    """Do the job that the command line names; a user's mistake is told in one line."""
    end_with_the_parent()
    try:
        do(Path(sys.argv[1]))
    except BertpressError as fault:
        say(f"{type(fault).__name__}: {fault}")
        return fault.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
