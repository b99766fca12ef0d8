"""A study from its first run to its tables: teachers, runs, one quiet phase of timing, results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertpress.artifact.folder import alone
from bertpress.errors import BertpressError, Interrupted
from bertpress.needs import check_one_process
from bertpress.runfolder import RunFolder
from bertpress.runner import Say
from bertpress.study.jobs import ENTRY, FAILURE, Job, prepare, read, run_jobs, teacher_jobs, teacher_of, tidy
from bertpress.study.known import needed, recall
from bertpress.study.outputs import gathered, write
from bertpress.study.plan import Plan
from bertpress.study.spread import here, on_ray
from bertpress.study.timing import profile_teachers, time_runs


def study(
    plan: str | Path | dict[str, Any] | Plan,
    *,
    out: str | Path,
    overrides: Sequence[str] = (),
    resume: bool = False,
    ray: str | None = None,
    known: Sequence[str | Path] = (),
    command: str = "",
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Run recipes on models, tasks and seeds, and set what came out beside what papers report.

    Args:
        plan: a YAML file, plain data, or a plan.
        out: folder of the study; its tables, its page and ``study.json`` lie there afterwards.
        overrides: ``path=value``, such as ``limits.minutes=5``.
        resume: keep what has been finished in ``out``, and try again what has failed.
        ray: address of a Ray cluster that does the runs; None: this machine.
        known: ``study.json`` of studies whose runs are taken over where they are the same.
        command: what repeats the study.
        say: is told what happens, a line at a time.

    Returns:
        The content of ``study.json``: ``table``, ``fronts``, ``claims``, ``entries``, ``failures`` and more.

    Raises:
        UserError: something that the study names is not usable, and nothing has been run; or what is known came from
            another teacher.
        Interrupted: Ctrl-C; the same call with ``resume`` goes on.
        BertpressError: no run came to its end.
    """
    check_one_process("study")
    plan = Plan.of(plan, overrides)
    plan.check()
    out = Path(out).absolute()
    folder = RunFolder.open(out, {"study": plan.name}, resume=resume)
    with alone(folder.path):
        runs = run_jobs(plan, out)
        before = recall(known, runs)
        teachers = needed(teacher_jobs(plan, out), runs, before)
        new = {place: job for place, job in runs.items() if place not in before.entries}
        if known:
            say(f"{len(before.entries)} of {len(runs)} runs are known")
        for place, job in {**teachers, **new}.items():
            prepare(place, job)
        folder.write("plan.json", plan.model_dump(mode="json"))
        try:
            _do(teachers, plan, ray, say)
            before.check_teachers(teachers)
            ready = {place: job for place, job in new.items() if _has_teacher(place, job)}
            _do(ready, plan, ray, say)
            time_runs(new, teachers, plan.timing, say)
            profiles = profile_teachers(teachers, plan.timing.rounds, say)
        except (KeyboardInterrupt, Interrupted):
            raise Interrupted("the study was interrupted") from None
        found = gathered(plan, teachers, runs, before, profiles, command)
        if not found["entries"]:
            first = found["failures"][0]
            raise BertpressError(
                f"study {plan.name}: no run came to its end; {first['name']}: {first['reason']}, {first['said']}"
            )
        write(found, folder)
        return found


def _do(jobs: Mapping[Path, Job], plan: Plan, ray: str | None, say: Say) -> None:
    """Do what has not been done; a failure is written down and gone round."""
    waiting = [str(place) for place in jobs if not (place / ENTRY).is_file()]
    done = here(waiting, plan.limits, plan.threads) if ray is None else on_ray(waiting, plan.limits, plan.threads, ray)
    for count, (ended, failure) in enumerate(done, start=1):
        told = "done" if failure is None else f"FAILED: {failure['reason']}; {failure['said']}"
        say(f"{count} of {len(waiting)}: {jobs[Path(ended)].name}: {told}")
    for place in jobs:
        if (place / ENTRY).is_file():
            tidy(place)


def _has_teacher(place: Path, job: Job) -> bool:
    """Whether the teacher of a run was made; else the run has failed before it began."""
    teacher = teacher_of(job)
    if (teacher / ENTRY).is_file() or (place / ENTRY).is_file():
        return True
    failed = read(teacher, FAILURE) or {}
    found = {"reason": "has no teacher", "said": str(failed.get("said", "")), "seconds": 0.0}
    RunFolder(place).write(FAILURE, found)
    return False
