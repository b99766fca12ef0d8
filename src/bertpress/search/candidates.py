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
"""That a student sees in its first, shortest run, and exits in each pass."""
RUNGS = (1, 3, 9, 27)
"""So many times as many it sees in that and in each longer run."""
EVEN, OWN = WIDTHS = ("even", "own")
"""Widths of a student's layers: the same for all, or chosen for each by what the teacher's would lose."""
DAMPING = 0.1
"""Of weights that least squares move; less fits the few examples too closely."""
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
        examples: that are seen in training, beside that of ``below``.
        rung: of a student.
        choices: that made the recipe, of a student.
        trial: its number at the sampler.
        below: name of the candidate whose stages its own begin with.
    """

    name: str
    kind: Kind
    recipe: Recipe
    share: float = 1.0
    examples: int = 0
    rung: int = 0
    choices: dict[str, Any] | None = None
    trial: int | None = None
    below: str | None = None


@dataclass(frozen=True)
class Space:
    """What recipes of this search have in common.

    Attributes:
        target: of the search.
        depth: layers of the model.
        engine: what times the sub-units of layers.
        tokens: length of the text that is timed.
        rows: of the training split.
        whole: whether the model's matrices are, and not products of two factors.
        runtime: to export to; None: none.
        trims: whether tokens that no text uses may go.
        leaves: whether texts may leave early.
    """

    target: Target
    depth: int
    engine: Literal["torch", "openvino"]
    tokens: int
    rows: int
    whole: bool
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
        settings = {"keep": keep, "budget": budget, "engine": self.engine, "tokens": self.tokens}
        if self.whole:
            settings |= {"tune": "weights", "damping": DAMPING}
        return {"prune/fisher": settings}

    @property
    def vocabulary(self) -> Stages:
        """Where the token table counts."""
        return [{"embed/vocabulary": {}}] if self.trims and self.target != "latency" else []

    def student(self, choices: dict[str, Any], trial: int, rung: int) -> Candidate:
        """A cut model that learns from the teacher's answers.

        Args:
            choices: ``layers``; ``width``, which is ``even`` or each layer's own; ``keep``, the share of every layer's
                heads and neurons or of what all cost; ``learning_rate``.
            trial: its number.
            rung: how long it learns.
        """
        layers, keep, name = choices["layers"], choices["keep"], f"student-{trial}-{rung}"
        kept = "heads and neurons" if choices["width"] == EVEN else "their cost"
        summary = f"{layers} of {self.depth} layers, {keep:.0%} of {kept}."
        recipe = self.recipe(name, summary, self._learning(choices, rung))
        return Candidate(
            name, "student", recipe, keep * layers / self.depth, self.seen(rung), rung, choices, trial
        )  # fmt: skip

    def seen(self, rung: int) -> int:
        """Examples that a student's run sees: new rows as long as there are any."""
        return RUNGS[rung] * min(EXAMPLES, self.rows)

    def _learning(self, choices: dict[str, Any], rung: int) -> Stages:
        layers, keep = choices["layers"], choices["keep"]
        shape: Stages = []
        if choices["width"] == EVEN:
            shape = [{"student/transformer": {"layers": layers, "heads": keep, "ffn": keep}}]
        elif layers < self.depth:
            shape = [{"student/transformer": {"layers": layers}}, self.fisher(keep)]
        else:
            shape = [self.fisher(keep)]
        answers = {"distill/logits": {"alpha": 0.9, "temperature": 2.0, "loss": "kl"}}
        rows = min(self.seen(rung), self.rows)
        train = {
            "epochs": self.seen(rung) / rows, "max_examples": rows, "learning_rate": choices["learning_rate"]
        }  # fmt: skip
        use = [*shape, *self.vocabulary, answers]
        return [{"name": "cut", "use": use, "train": train}]

    def with_exits(self, winner: Candidate, spare: float) -> Candidate | None:
        """What complements any other: early exits that learn the head's answers; None where time does not count.

        Args:
            winner: what they are put on.
            spare: points of the limit that it leaves.
        """
        if self.target != "latency" or not self.leaves or spare <= 0:
            return None
        seen = self.seen(0)
        exits = {
            "name": "exits",
            "use": [{"exit/fastbert": {"every": 2, "drop": round(spare / 2, 3)}}],
            "train": {"epochs": EXIT_EPOCHS, "max_examples": seen, "learning_rate": 1e-3},
        }
        name, summary = f"{winner.name}-exits", f"{winner.recipe.summary[:-1]}; early exits."
        recipe = self.recipe(name, summary, [*winner.recipe.to_dict()["stages"][:-1], exits])
        return winner._replace(
            name=name, kind="compound", recipe=recipe, examples=EXIT_EPOCHS * seen, below=winner.name
        )  # fmt: skip

    def first(self) -> list[dict[str, Any]]:
        """Students that are tried before the sampler knows anything."""
        two_thirds, half = (max(1, math.ceil(self.depth * share)) for share in (2 / 3, 1 / 2))
        shapes = [(two_thirds, EVEN, 0.35), (self.depth, OWN, 0.5), (half, EVEN, 0.5), (two_thirds, EVEN, 0.5)]
        return [
            {"layers": layers, "width": width, "keep": keep, "learning_rate": 2e-4}
            for layers, width, keep in dict.fromkeys(shapes)
        ]


def affordable_rungs(seconds: Sequence[float], budget: float) -> int:
    """How many rungs there are: those of which a run takes at most a quarter of the budget, and the first.

    >>> affordable_rungs([60.0, 180.0, 540.0], 1800.0)
    2
    """
    return max(1, sum(each <= budget / 4 for each in seconds))
