"""What the candidates of one search share, and one candidate made and scored on the rows chosen on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bertpress import artifact, tasks
from bertpress.artifact import Artifact
from bertpress.engines import load_engine
from bertpress.errors import UserError
from bertpress.measure.size import size
from bertpress.outcome import ENGINES, answered
from bertpress.runfolder import RunFolder
from bertpress.runner import Request, Say, press
from bertpress.search.aim import Tried
from bertpress.search.candidates import Candidate
from bertpress.search.costs import Costs
from bertpress.tasks import Drop, Rows, Task, UserMetric

MADE, TRIED = "made.json", "tried.json"


@dataclass
class Setting:
    """One search.

    Attributes:
        folder: of the search.
        task: with its labels.
        fit: rows that candidates learn from.
        chosen_on: rows which none of them has seen.
        teacher: folder of the model that is compressed.
        engine: what runs the candidates.
        seed: of everything random.
        threads: of the engine; all cores when None.
        metric: the user's own.
        command: what repeats the search.
        say: shows one line of progress.
        tokens: of the texts that will be served; those of the train split when None.
    """

    folder: RunFolder
    task: Task
    fit: Rows
    chosen_on: Rows
    teacher: Path
    engine: str
    seed: int
    threads: int | None
    metric: UserMetric | None
    command: str
    say: Say
    tokens: int | None = None

    @cached_property
    def truth(self) -> list[Any]:
        """References of the rows that are chosen on."""
        return tasks.references(self.task, self.chosen_on)

    @cached_property
    def expected(self) -> dict[str, Any]:
        """The teacher's answers to the rows that are chosen on, and how many it gives in a second."""

        def answers() -> dict[str, Any]:
            began = time.monotonic()
            found = self.answers(artifact.load(self.teacher), self.chosen_on, "torch")
            return {"answers": found, "examples_per_second": len(found) / (time.monotonic() - began)}

        return self.folder.once("teacher.json", answers)

    def place(self, name: str) -> Path:
        """Folder of a candidate's run."""
        return self.folder / "candidates" / name

    def made(self, name: str) -> Artifact:
        """What a candidate became."""
        return artifact.load(self.place(name) / "model", verify=False)

    def known(self, candidate: Candidate) -> Tried | None:
        """What came of a candidate that was tried before."""
        place = self.place(candidate.name) / TRIED
        return Tried.model_validate_json(place.read_text(encoding="utf-8")) if place.is_file() else None

    def attempt(self, candidate: Candidate, cost: Callable[[Artifact], float]) -> Tried:
        """Make a candidate and score it, or read what came of it; a recipe that the model cannot follow is a failure.

        Raises:
            Interrupted: Ctrl-C; the same call goes on.
        """
        if (before := self.known(candidate)) is not None:
            return before
        began = time.monotonic()
        tried = untried(candidate)
        try:
            made, seconds = self.make(candidate)
            began = time.monotonic() - seconds
            tried = tried.model_copy(update=self.scored(made, cost))
        except UserError as fault:
            tried = tried.model_copy(update={"failure": str(fault)})
        tried = tried.model_copy(update={"seconds": round(time.monotonic() - began, 2)})
        place = self.place(candidate.name)
        RunFolder(place).write(TRIED, tried.model_dump_json(indent=1) + "\n")
        _tidy(place)
        return tried

    def forget(self) -> None:
        """Remove the stages of all candidates, once none is made any more."""
        for place in (self.folder / "candidates").iterdir():
            shutil.rmtree(place / "stages", ignore_errors=True)

    def make(self, candidate: Candidate) -> tuple[Artifact, float]:
        """Run a candidate's recipe, on whatever machine; the artifact, and the seconds that it took where it was made.

        Raises:
            UserError: the model cannot follow the recipe.
            Interrupted: Ctrl-C; the same call goes on.
        """
        began, place = time.monotonic(), self.place(candidate.name)
        request = Request(
            self.teacher, candidate.recipe, self.task, place, seed=self.seed, threads=self.threads, resume=True,
            command=self.command, train=self.fit, validation=self.chosen_on, held_out=self.chosen_on,
            metric=self.metric, cache=self.folder / "cache",
            known=None if candidate.below is None else self.place(candidate.below),
        )  # fmt: skip
        made = press(request, self.say).artifact
        took = RunFolder(place).once(MADE, lambda: {"seconds": time.monotonic() - began})
        return made, took["seconds"]

    def answers(self, made: Artifact, rows: Rows, engine: str) -> list[Any]:
        """Predictions of an artifact on an engine."""
        return answered(self.task, rows, made, load_engine(engine, made.path, self.threads))[1]

    def score(self, answers: list[Any], truth: list[Any]) -> dict[str, Any]:
        """The metric that counts."""
        scores = tasks.score(self.task, answers, truth, seed=self.seed, metric=self.metric)
        return next(iter(scores.values())).model_dump(mode="json")

    def drop(self, before: list[Any], after: list[Any], truth: list[Any]) -> Drop:
        """Points that are lost from one list of answers to the other."""
        return tasks.drop(self.task, before, after, truth, seed=self.seed, metric=self.metric)

    def scored(self, made: Artifact, cost: Callable[[Artifact], float]) -> dict[str, Any]:
        """Score, drop, cost and sizes of an artifact."""
        answers = self.answers(made, self.chosen_on, self.engine)
        return {
            "metric": self.score(answers, self.truth),
            "drop": self.drop(self.expected["answers"], answers, self.truth),
            "cost": cost(made),
            "figures": {
                **size(made.path, self.engine).as_keys(size(self.teacher).weight_bytes),
                "parameters": made.blueprint.total_parameters,
                "layers": len(made.blueprint.layers),
                "heads": [len(layer.attention.heads) for layer in made.blueprint.layers],
                "ffn": [sum(layer.ffn) for layer in made.blueprint.layers],
            },
        }


def untried(candidate: Candidate) -> Tried:
    """A candidate of which nothing is known yet."""
    return Tried(
        name=candidate.name, kind=candidate.kind, rung=candidate.rung, recipe=candidate.recipe.to_dict(),
        choices=candidate.choices, trial=candidate.trial,
    )  # fmt: skip


def runtime_of(engine: str) -> str | None:
    """What is exported for an engine; None for PyTorch, which reads the artifact itself."""
    return next((runtime for runtime, name in ENGINES.items() if name == engine), None)


def cost_of(costs: Costs, target: str, engine: str) -> Callable[[Artifact], float]:
    """Milliseconds by the table, or bytes of the artifact or of the file that the engine loads, which are there."""

    def cost(made: Artifact) -> float:
        if target == "latency":
            return costs(made.blueprint, saving_of(made))
        return float(bytes_of(made, target, engine))

    return cost


def bytes_of(made: Artifact, target: str, engine: str) -> int:
    """Of the packed artifact where its size is the target, else of what the engine loads."""
    found = size(made.path, engine)
    return found.artifact_bytes if target == "size" else found.weight_bytes


def saving_of(made: Artifact) -> float:
    """How many times less its early exits compute, by the curve at their own speed; 1 without any."""
    exits = made.manifest.exits
    if not exits:
        return 1.0
    return next(float(point["saving"]) for point in exits["curve"] if point["speed"] == exits["speed"])


def _tidy(place: Path) -> None:
    """Remove what only the run itself needed; others may begin with its stages."""
    for path in place.iterdir():
        if path.is_dir() and path.name not in ("model", "stages"):
            shutil.rmtree(path)
    for path in place.glob("stages/*/training"):
        shutil.rmtree(path)
