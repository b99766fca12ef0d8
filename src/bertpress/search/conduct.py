"""A search from its first candidate to the winner: bits, cuts without training, students, compounds, clock, report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from bertpress.artifact import Artifact
from bertpress.encoder.subnetworks import obstacle
from bertpress.engines import available
from bertpress.errors import EngineError, Interrupted, RecipeError, UserError
from bertpress.inputs import TaskOptions, folder_of, model_of, rows_of, task_of
from bertpress.methods.budgets import factored
from bertpress.methods.latency import on_this_machine
from bertpress.needs import check_one_process
from bertpress.report.numerals import duration
from bertpress.runfolder import RunFolder
from bertpress.runner import Say
from bertpress.search.aim import Aim, Target, Tried, best_cost, finalists, promotion
from bertpress.search.candidates import EXIT_EPOCHS, RUNGS, Candidate, Space, affordable_rungs
from bertpress.search.clock import Clock, Pace, seconds_of
from bertpress.search.costs import Costs, LayerTimes, parameters
from bertpress.search.ending import TIMED, end, timed
from bertpress.search.makers import makers_of
from bertpress.search.proposals import Proposals, check_installed
from bertpress.search.rows import cut_rows, median_tokens, prepared
from bertpress.search.setting import Setting, bytes_of, cost_of, runtime_of, untried
from bertpress.tasks import Task, UserMetric

HOPELESS = 10.0
"""Points beyond the limit at which no deeper cut without training is tried."""
RESERVE = 0.1
"""Share of the budget that the last measurements are given."""


def search(
    model: str | Path,
    *,
    task: str | Task,
    out: str | Path,
    max_drop: float = 1.0,
    target: Target = "latency",
    budget: str = "30m",
    confidence: float = 0.8,
    engine: str | None = None,
    train: Any = None,
    validation: Any = None,
    selection: Any = None,
    data: str | Path | None = None,
    metric: str | UserMetric | None = None,
    seed: int = 0,
    resume: bool = False,
    threads: int | None = None,
    tokens: int | None = None,
    students: int | None = None,
    ray: str | None = None,
    command: str = "",
    say: Say = lambda line: None,
    **options: Unpack[TaskOptions],
) -> dict[str, Any]:
    """Find the cheapest artifact that loses at most so many points, within a time.

    Candidates are made, scored and chosen on rows of the train split alone, or chosen on those of a split ``selection``
    where there is one.  The validation split is scored once, when the winner stands.

    Args:
        model: hub name or folder; one that is not fine-tuned is fine-tuned first, within a third of the time.
        task: a name, or a task.
        out: folder of the search; the winner is ``OUT/model``, and ``search.json`` and ``search.html`` lie beside it.
        max_drop: points that may be lost.
        target: what is made small: ``latency``, ``size`` on disk or ``memory``.
        budget: such as ``30m``; what was spent before counts when a search goes on.
        confidence: probability that the winner keeps the limit, on the rows that it is chosen on.
        engine: what runs the candidates; OpenVINO where it is installed, and PyTorch for ``size``, when None.
        train: rows in place of ``data``.
        validation: likewise.
        selection: likewise; rows that the model has not seen, if it has seen all of train.
        data: folder of the task's splits; the hub when None.
        metric: name of a metric of the task, or a function of predictions and references.
        seed: of everything random.
        resume: go on with the search in ``out``.
        threads: of whatever is timed; all cores when None.
        tokens: of the texts that will be served, which times are taken at; the median of the train split's when None.
        students: at most so many trainings, whatever time is left.
        ray: address of a Ray cluster that makes students, as many at once as it has room for; None: this machine.
        command: what repeats the search.
        say: is told what happens, a line at a time.
        **options: changes to the task.

    Returns:
        The content of ``search.json``: ``winner``, ``front``, ``candidates``, ``sure``, ``rows``, ``environment``.

    Raises:
        UserError: the input is wrong; the message is one line.
        Interrupted: Ctrl-C; the same call with ``resume`` goes on.
    """
    seconds, aim = seconds_of(budget), Aim(target=target, max_drop=max_drop, confidence=confidence)
    check_one_process("search")
    check_installed()
    named, own_metric = task_of(task, metric, options)
    engine = _engine(engine, target)
    source, place = model_of(model), folder_of(data)
    rows = cut_rows(
        source, named, place, rows_of(train, "train"), rows_of(validation, "validation"),
        rows_of(selection, "selection"), seed,
    )  # fmt: skip
    identity = {"search": aim.model_dump(mode="json"), "model": str(source), "engine": engine, "seed": seed,
                "tokens": tokens, "task": rows.task.model_dump(mode="json")}  # fmt: skip
    folder = RunFolder.open(Path(out), identity, resume=resume)
    clock = Clock(seconds, folder)
    try:
        teacher = prepared(source, rows, folder, seconds / 3, seed, say)
        setting = Setting(
            folder, rows.task, rows.fit, rows.chosen_on, teacher.path, engine, seed, threads, own_metric, command, say,
            tokens,
        )  # fmt: skip
        course = Course(setting, aim, clock, teacher, students, ray)
        course.run()
        return end(course, rows, clock)
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted("the search was interrupted") from None
    finally:
        clock.keep()


def _engine(engine: str | None, target: Target) -> str:
    if target == "size":
        if engine not in (None, "torch"):
            raise EngineError(f"search: engine={engine} must be torch where the target is size")
        return "torch"
    chosen = engine or ("openvino" if "openvino" in available() else "torch")
    if chosen not in available():
        raise EngineError(f"search: engine={chosen} is not installed; installed: {', '.join(available())}")
    return chosen


@dataclass
class Course:
    """What was tried so far, and what is next.

    Attributes:
        setting: of all candidates.
        aim: of the search.
        clock: of the budget.
        teacher: the uncompressed model.
        students: at most so many trainings; None: as many as there is time for.
        ray: address of a cluster that makes them; None: this machine.
        tried: in order.
        made: the candidates that they come from, by name.
    """

    setting: Setting
    aim: Aim
    clock: Clock
    teacher: Artifact
    students: int | None
    ray: str | None = None
    tried: list[Tried] = field(default_factory=list)
    made: dict[str, Candidate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (reason := obstacle(self.teacher.blueprint)) is not None:
            raise RecipeError(f"search: {reason}")
        self.pace = Pace(self.setting.expected["examples_per_second"])

    @cached_property
    def space(self) -> Space:
        """Of the recipes."""
        setting = self.setting
        head = setting.task.head().kind == "sequence"
        return Space(
            target=self.aim.target, depth=len(self.teacher.blueprint.layers),
            engine="openvino" if setting.engine == "openvino" else "torch", tokens=self.tokens, rows=len(setting.fit),
            whole=factored(self.teacher.model) is None, runtime=runtime_of(setting.engine), trims=head,
            leaves=head and not setting.task.multi_label and not setting.task.is_regression,
        )  # fmt: skip

    @cached_property
    def tokens(self) -> int:
        """Length of the texts that will be served, as far as it is known."""
        setting = self.setting
        if setting.tokens is not None:
            return setting.tokens
        rows = setting.fit.limit(min(256, len(setting.fit)), setting.seed)
        return median_tokens(self.teacher.tokenizer, setting.task, rows)

    @cached_property
    def costs(self) -> Costs:
        """Of any shape: the anchor's measured cost, and the table of what layers take or their weights."""
        setting, anchor, whole = self.setting, self.setting.made("bits"), self.teacher.blueprint
        if self.aim.target != "latency":
            measured = float(bytes_of(anchor, self.aim.target, setting.engine))
            return Costs(parameters, whole, measured, measured / whole.total_parameters)
        timer = on_this_machine(self.tokens, self.space.engine)
        setting.say("timing parts of layers, for a table that predicts latencies")
        layers = LayerTimes(whole, timer, setting.folder / "latencies")
        clocked = setting.folder.once(TIMED, lambda: timed(setting, ["bits"]))["candidates"][-1]
        inside = clocked["model_latency_ms"]["median"]  # more than the sum of parts that were timed in caches kept warm
        return Costs(layers, whole, clocked["latency_ms"]["median"], inside / layers(whole))

    def run(self) -> None:
        """Everything until the time is over."""
        if self._try(self.space.anchor()).failure is not None:
            raise UserError(f"search: {self.tried[-1].failure}")
        for cut in self.space.cuts():
            if not self._fits(cut):
                break
            if self._try(cut).lost > self.aim.max_drop + HOPELESS:
                break  # the next ones lose more
        self._exits("bits")
        self._students()
        best = finalists([each for each in self.tried if each.kind != "compound"], self.aim, 1)
        for each in best:
            self._exits(each.name)
        self.setting.forget()

    def _students(self) -> None:
        runs = [self.pace.training(self.space.seen(rung), 0.5) for rung in range(len(RUNGS))]
        rungs = affordable_rungs(runs, self.clock.budget)
        setting = self.setting
        proposals = Proposals(setting.folder.path, self.space.depth, setting.seed, self.space.first())
        for rung in range(len(RUNGS)):
            for number, choices in proposals.answered():
                if setting.known(candidate := self.space.student(choices, number, rung)) is not None:
                    self._try(candidate)
        with makers_of(setting, self.ray) as makers:
            while True:
                while len(makers.begun) < makers.room and (found := self._next(proposals, rungs, makers.begun)):
                    makers.begin(found)
                if not makers.begun:
                    return
                tried = self._try(makers.ended())
                if tried.trial is not None and tried.rung == 0:
                    proposals.answer(tried.trial, tried.price, tried.lost)

    def _next(self, proposals: Proposals, rungs: int, begun: list[Candidate]) -> Candidate | None:
        """One that is trained on, else a new one, as long as there is time for a long run of the best after it."""
        trained = sum(each.kind == "student" for each in self.tried) + len(begun)
        if self.students is not None and trained >= self.students:
            return None
        for candidate in self._options(proposals, rungs, begun):
            if candidate is not None and self._fits(candidate):
                return candidate
        return None

    def _options(self, proposals: Proposals, rungs: int, begun: list[Candidate]) -> Iterator[Candidate | None]:
        seen = [*self.tried, *map(untried, begun)]
        yield self._longer(promotion(seen, self.aim, rungs))
        longest = self._longest(promotion(seen, self.aim, rungs, eager=True), rungs)
        if longest is not None and not self._fits(longest, self.pace(self.space.seen(0), 0.5)):
            yield longest
        found = proposals.next(self._affordable, [each.trial for each in begun if each.trial is not None])
        yield None if found is None else self.space.student(found.choices, found.number, 0)
        yield longest

    def _longer(self, tried: Tried | None, by: int = 1) -> Candidate | None:
        if tried is None or tried.trial is None or tried.choices is None:
            return None
        return self.space.student(tried.choices, tried.trial, tried.rung + by)

    def _longest(self, tried: Tried | None, rungs: int) -> Candidate | None:
        """The longest run of a student that there is time for."""
        steps = () if tried is None else range(rungs - 1 - tried.rung, 0, -1)
        longer = (self._longer(tried, by) for by in steps)
        return next((each for each in longer if each is not None and self._fits(each)), None)

    def _affordable(self, choices: dict[str, Any]) -> bool:
        return self.costs.at(choices["keep"] * choices["layers"] / self.space.depth) < best_cost(self.tried, self.aim)

    def _exits(self, name: str) -> None:
        """A candidate that keeps the limit, with early exits, if there is time for them and they were not tried."""
        below = next(each for each in self.tried if each.name == name)
        if not self.aim.keeps(below.drop):
            return
        found = self.space.with_exits(self.made[name], self.aim.max_drop - below.lost)
        if found is not None and not (self.setting.place(name) / "stages").is_dir():  # an earlier session forgot them
            found = found._replace(examples=found.examples + self.made[name].examples)
        if found is not None and found.name not in self.made and self._fits(found):
            self._try(found)

    def _fits(self, candidate: Candidate, more: float = 0.0) -> bool:
        """Whether there is time for it and for so many more seconds; what was tried before takes none."""
        if self.setting.known(candidate) is not None:
            return True
        if candidate.kind == "student" and self.aim.target == "latency":
            more += self.pace(EXIT_EPOCHS * self.space.seen(0), candidate.share)  # what will complement it
        return self.pace(candidate.examples, candidate.share) + more <= self.clock.left - RESERVE * self.clock.budget

    def _try(self, candidate: Candidate) -> Tried:
        setting, new = self.setting, self.setting.known(candidate) is None
        if new:
            setting.say(f"{candidate.name}: {candidate.recipe.summary} {duration(max(0.0, self.clock.left))} left")

        def cost(made: Artifact) -> float:
            return cost_of(self.costs, self.aim.target, setting.engine)(made)

        anchor = candidate.kind == "anchor"
        tried = setting.attempt(candidate, (lambda made: 0.0) if anchor else cost)
        if anchor and tried.failure is None:
            tried = tried.model_copy(update={"cost": self.costs.at(1.0)})
        if candidate.kind != "compound":  # exits train on a model that is frozen, which takes less
            self.pace.learn(tried.seconds, candidate.examples, candidate.share)
        self.tried.append(tried)
        self.made[candidate.name] = candidate
        if new:
            setting.say(f"{candidate.name}: {told(tried)}")
            self.clock.keep()
        return tried


def told(tried: Tried) -> str:
    """A candidate in a line."""
    if tried.drop is None:
        return f"failed: {tried.failure}"
    return f"drops {tried.drop.value:.2f} [{tried.drop.low:.2f}, {tried.drop.high:.2f}], costs {tried.price:,.3g}"
