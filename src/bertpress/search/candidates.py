"""The candidates of a search, as ordinary recipes: what they are made of, and in which order they are tried."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from bertpress.recipe import Recipe
from bertpress.search.aim import Kind, Target
from bertpress.training.settings import TrainSettings

BATCH = TrainSettings().batch_size
EXAMPLES = 9000
"""Rows that students learn from: the same for all, so that the teacher answers each once."""
RUNGS = (1, 3, 9)
"""Passes over them, from the first short run of a student to the longest."""
CUTS = (0.85, 0.7, 0.55, 0.4)
"""Shares of the layers' cost that stay without training."""
EXIT_EPOCHS = 2
"""Passes of exits over the same rows; the model under them is frozen."""

Stages = list[dict[str, Any]]


class Candidate(NamedTuple):
    """What is tried.

    Attributes:
        name: of its folder.
        kind: see :class:`bertpress.search.aim.Tried`.
        recipe: that makes it.
        share: of the teacher's layers, in cost.
        examples: that are seen in training.
        rung: of a student.
        choices: that made the recipe, of a student.
        trial: its number at the sampler.
    """

    name: str
    kind: Kind
    recipe: Recipe
    share: float = 1.0
    examples: int = 0
    rung: int = 0
    choices: dict[str, Any] | None = None
    trial: int | None = None


@dataclass(frozen=True)
class Space:
    """What recipes of this search have in common.

    Attributes:
        target: of the search.
        depth: layers of the model.
        engine: what times the sub-units of layers.
        tokens: length of the text that is timed.
        rows: of the training split.
        runtime: to export to; None: none.
        trims: whether tokens that no text uses may go.
        leaves: whether texts may leave early.
    """

    target: Target
    depth: int
    engine: Literal["torch", "openvino"]
    tokens: int
    rows: int
    runtime: str | None
    trims: bool
    leaves: bool

    @property
    def bits(self) -> Stages:
        """The last stage: few bits where bytes count, integers that the engine multiplies elsewhere."""
        method: dict[str, Any] = {"quantize/gobo": {}} if self.target == "size" else {"quantize/int8": {}}
        return [{"name": "quantize", "use": [method]}]

    def recipe(self, name: str, summary: str, stages: Stages) -> Recipe:
        """Some stages, then the bits."""
        export = [] if self.runtime is None else [self.runtime]
        raw = {"name": name, "summary": summary, "stages": [*stages, *self.bits], "export": export}
        return Recipe.parse(raw, place=f"candidate {name}")

    def anchor(self) -> Candidate:
        """Bits alone."""
        return Candidate("bits", "anchor", self.recipe("bits", "Fewer bits, nothing else.", []))

    def cuts(self) -> list[Candidate]:
        """Without training, the gentlest first."""
        found = []
        if self.vocabulary:
            stages: Stages = [{"name": "cut", "use": self.vocabulary}]
            found.append(Candidate("tokens", "cut", self.recipe("tokens", "Unused tokens gone.", stages)))
        for keep in CUTS:
            name = f"cut-{keep:g}"
            stages = [{"name": "cut", "use": [self.fisher(keep), *self.vocabulary]}]
            recipe = self.recipe(name, f"{keep:.0%} of the layers' cost kept, without training.", stages)
            found.append(Candidate(name, "cut", recipe, share=keep))
        return found

    def fisher(self, keep: float) -> dict[str, Any]:
        """Heads and neurons chosen for each layer, within a share of the cost."""
        budget = "latency" if self.target == "latency" else "macs"
        return {"prune/fisher": {"keep": keep, "budget": budget, "engine": self.engine, "tokens": self.tokens}}

    @property
    def vocabulary(self) -> Stages:
        """Where the token table counts."""
        return [{"embed/vocabulary": {}}] if self.trims and self.target != "latency" else []

    def student(self, choices: dict[str, Any], trial: int, rung: int) -> Candidate:
        """A cut model that learns from the teacher's answers.

        Args:
            choices: ``layers``, ``keep`` (the share of their cost), ``learning_rate``.
            trial: its number.
            rung: how long it learns.
        """
        layers, keep = choices["layers"], choices["keep"]
        name, examples = f"student-{trial}-{rung}", RUNGS[rung] * min(EXAMPLES, self.rows)
        recipe = self.recipe(
            name, f"{layers} of {self.depth} layers, {keep:.0%} of their cost.", self._learning(choices, rung)
        )
        return Candidate(name, "student", recipe, keep * layers / self.depth, examples, rung, choices, trial)

    def _learning(self, choices: dict[str, Any], rung: int) -> Stages:
        depth: Stages = []
        if choices["layers"] < self.depth:
            depth = [{"student/transformer": {"layers": choices["layers"]}}]
        answers = {"distill/logits": {"alpha": 0.9, "temperature": 2.0, "loss": "kl"}}
        train = {
            "epochs": RUNGS[rung], "max_examples": min(EXAMPLES, self.rows), "learning_rate": choices["learning_rate"]
        }  # fmt: skip
        use = [*depth, self.fisher(choices["keep"]), *self.vocabulary, answers]
        return [{"name": "cut", "use": use, "train": train}]

    def with_exits(self, winner: Candidate, spare: float) -> Candidate | None:
        """What complements any other: early exits that learn the head's answers; None where time does not count.

        Args:
            winner: what they are put on.
            spare: points of the limit that it leaves.
        """
        if self.target != "latency" or not self.leaves or spare <= 0:
            return None
        seen = min(EXAMPLES, self.rows)
        exits = {
            "name": "exits",
            "use": [{"exit/fastbert": {"every": 2, "drop": round(spare / 2, 3)}}],
            "train": {"epochs": EXIT_EPOCHS, "max_examples": seen, "learning_rate": 1e-3},
        }
        name, examples = f"{winner.name}-exits", winner.examples + EXIT_EPOCHS * seen
        summary = f"{winner.recipe.summary[:-1]}; early exits."
        recipe = self.recipe(name, summary, [*winner.recipe.to_dict()["stages"][:-1], exits])
        return winner._replace(name=name, kind="compound", recipe=recipe, examples=examples)

    def first(self) -> list[dict[str, Any]]:
        """Students that are tried before the sampler knows anything."""
        two_thirds, half = (max(1, math.ceil(self.depth * share)) for share in (2 / 3, 1 / 2))
        shapes = [(self.depth, 0.5), (self.depth, 0.35), (two_thirds, 0.5), (half, 0.6)]
        return [{"layers": layers, "keep": keep, "learning_rate": 1e-4} for layers, keep in dict.fromkeys(shapes)]


def affordable_rungs(seconds: Sequence[float], budget: float) -> int:
    """How many rungs there are: those of which a run takes at most a quarter of the budget, and the first.

    >>> affordable_rungs([60.0, 180.0, 540.0], 1800.0)
    2
    """
    return max(1, sum(each <= budget / 4 for each in seconds))
