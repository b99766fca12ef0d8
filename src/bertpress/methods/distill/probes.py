"""Learn, layer by layer, what classifiers read in the teacher's layers.

Source: AdaBERT, Chen et al. 2020, arXiv:2001.04246, section 3.2, hierarchical probes: a softmax classifier is trained
on each frozen layer of the teacher, its embeddings included; layer l of a student of M layers has a classifier of its
own, which learns what the probe of teacher layer l floor(L/M) says.  A layer counts the more for an example, the surer
its probe is of the label (``weighting: labels``; the authors' code: ``equal``).  With ``weight`` w beside a task's loss
of weight 1, the paper's gamma is w / (1 + w).
Departs from it: texts are the mean of their tokens; tags and the ends of answers are probed token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bertpress import tasks
from bertpress.encoder.blueprint import HeadSpec
from bertpress.encoder.heads import pool
from bertpress.encoder.tokenizers import same_ids
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need
from bertpress.methods.layer_maps import check_tokens
from bertpress.methods.linear_maps import linear
from bertpress.methods.matching import comparable_rows
from bertpress.tasks.masking import IGNORED
from bertpress.training.checkpoint import Checkpoints
from bertpress.training.objectives import Objective, Step
from bertpress.training.teacher import Teacher

Weighting = Literal["labels", "equal"]
NAME, STATE = "distill/probes", "probes"
HIDDEN = frozenset({"hidden_states"})


def probed_layers(student: int, teacher: int) -> list[int]:
    """The teacher's layer for each of the student's, 0 being the embeddings of both: l times floor(L/M).

    Args:
        student: layers M.
        teacher: layers L, at least M.
    """
    return [layer * (teacher // student) for layer in range(student + 1)]


def confidence(teacher: Tensor, labels: Tensor) -> Tensor:
    """How much each layer counts for each example: its probe's probability of the label, among all layers.

    Args:
        teacher: (layers, rows, classes) logits of the probes.
        labels: (rows,); -100 where unknown, and there all layers count alike.

    Returns:
        (layers, rows); sums over the layers are 1.
    """
    known = labels != IGNORED
    asked = labels.where(known, 0).expand(len(teacher), -1).unsqueeze(-1)
    right = teacher.log_softmax(-1).gather(-1, asked).squeeze(-1)
    return right.where(known, 0.0).softmax(0)


def probe_loss(*, student: Tensor, teacher: Tensor, counts: Tensor, temperature: float) -> Tensor:
    """Soft cross-entropy of each layer under its probe, summed over the layers by what they count, averaged over rows.

    Args:
        student: (layers, rows, classes) logits.
        teacher: the same shape, of the probes.
        counts: (layers, rows).
        temperature: > 0; the loss is multiplied by its square.
    """
    target = (teacher / temperature).softmax(-1)
    loss = -(target * (student / temperature).log_softmax(-1)).sum(-1) * temperature**2
    return (loss * counts).sum() / max(loss.shape[1], 1)


def labelled_rows(kind: str, logits: Tensor, batch: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """What is decided: (layers, rows, classes) logits and (rows,) labels of texts, labelled tokens or ends of answers.

    Args:
        kind: of the task's head.
        logits: (layers, batch, classes) or (layers, batch, tokens, classes).
        batch: with its labels.
    """
    if kind == "span":
        positions = (batch["start_positions"], batch["end_positions"])
        return list(zip(comparable_rows(kind, logits, batch), positions, strict=True))
    if kind == "token":
        told = batch["labels"] != IGNORED
        return [(logits[:, told], batch["labels"][told])]
    return [(logits, batch["labels"])]


class Classifiers(nn.ModuleList):
    """A linear classifier on each of some hidden states: of the mean token, or of every token."""

    def __init__(self, layers: int, width: int, head: HeadSpec, generator: torch.Generator) -> None:
        super().__init__(linear(width, head.labels, generator) for _ in range(layers))
        self.by_text = head.kind == "sequence"

    def forward(self, hidden: Sequence[Tensor], mask: Tensor) -> Tensor:
        """As many (batch, tokens, width) as there are classifiers to (layers, batch, classes), or by token."""
        read = [pool(each, mask, "mean") if self.by_text else each for each in hidden]
        return torch.stack([classifier(each) for classifier, each in zip(self, read, strict=True)])


@dataclass
class Hierarchy:
    """What the student's classifiers lack of what the probes say, over all layers."""

    method: Probes
    kind: str
    layers: list[int]
    weight: float
    name: str = "probes"
    captures: frozenset[str] = HIDDEN
    needs_teacher: bool = True

    @property
    def teacher_places(self) -> frozenset[int]:
        """Places on the teacher's tape that are read."""
        return frozenset(self.layers)

    def __call__(self, step: Step) -> Tensor:
        """Mean over the texts, the labelled tokens, or the ends of the answers."""
        assert step.teacher is not None
        classifiers, mask = step.state[STATE], step.batch["attention_mask"]
        assert isinstance(classifiers, nn.ModuleDict)
        there = step.teacher.captured["hidden_states"]
        with torch.no_grad():
            said = classifiers["teacher"]([there[layer] for layer in self.layers], mask)
        own = classifiers["student"](step.student.captured["hidden_states"], mask)
        rows = [labelled_rows(self.kind, logits, step.batch) for logits in (own, said)]
        return torch.stack([self._loss(a, b, labels) for (a, labels), (b, _) in zip(*rows, strict=True)]).mean()

    def _loss(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        equal = torch.full(teacher.shape[:2], 1 / len(teacher), device=teacher.device)
        counts = equal if self.method.weighting == "equal" else confidence(teacher, labels)
        return probe_loss(student=student, teacher=teacher, counts=counts, temperature=self.method.temperature)


class Probes(Method):
    """Distil what linear classifiers read in each layer of the teacher into the student's layers."""

    cite: ClassVar[str] = "Chen et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset(
        {Need.TEACHER, Need.TRAINING, Need.TOKENS, Need.LABELS, Need.CALIBRATION}
    )

    weight: float = Field(4.0, gt=0, le=1000, description="Of the probes' term beside the other losses.")
    weighting: Weighting = Field("labels", description="How the layers count: by their probes' belief, or equally.")
    temperature: float = Field(1.0, gt=0, le=100, description="Softens what probes and classifiers say.")
    examples: int = Field(2048, ge=1, le=1_000_000, description="Training examples that the probes learn from.")
    epochs: int = Field(3, ge=1, le=1000, description="Passes over them.")
    learning_rate: float = Field(5e-3, gt=0, le=10, description="Of the probes, by Adam.")

    def learns_task(self) -> bool:
        """Yes: probes are classifiers."""
        return True

    def attach(self, model: Model, ctx: Context) -> Model:
        """Train the probes, or read them where an interrupted run has; the student's classifiers are fresh."""
        task, teacher = ctx.task, ctx.teacher
        assert teacher is not None
        check_tokens(NAME, model, teacher)
        reads = ctx.teacher_tokenizer
        if reads is not None and not same_ids(reads, ctx.tokenizer):
            raise RecipeError(f"{NAME}: probes learn from the ids of the student, and the teacher has others")
        if task.multi_label or not (
            task.is_classification or task.kind in ("token-classification", "question-answering")
        ):
            kind = "several labels a text" if task.multi_label else task.kind
            raise RecipeError(f"{NAME}: the task {task.name} must have one class for each text or token, not {kind}")
        here, there = len(model.blueprint.layers), len(teacher.blueprint.layers)
        if not 1 <= here <= there:
            raise RecipeError(f"{NAME}: the student's {here} layers must be 1 to {there}, the teacher's")
        head, generator = task.head(), ctx.generator()
        probes = Classifiers(here + 1, teacher.blueprint.hidden_size, head, generator)
        self._learn(probes, teacher, probed_layers(here, there), ctx)
        student = Classifiers(here + 1, model.blueprint.hidden_size, head, generator)
        ctx.state[STATE] = nn.ModuleDict({"teacher": probes.requires_grad_(False), "student": student})
        return model

    def objectives(self, ctx: Context) -> list[Objective]:
        """The hierarchy of probes."""
        assert ctx.teacher is not None
        classifiers = ctx.state[STATE]
        assert isinstance(classifiers, nn.ModuleDict)
        probes = classifiers["teacher"]
        assert isinstance(probes, Classifiers)
        layers = probed_layers(len(probes) - 1, len(ctx.teacher.blueprint.layers))
        return [Hierarchy(self, ctx.task.head().kind, layers, self.weight)]

    def _learn(self, probes: Classifiers, model: Model, layers: Sequence[int], ctx: Context) -> None:
        kept = None if ctx.folder is None else Checkpoints(ctx.folder / STATE)
        if kept is not None and (done := kept.done()) is not None:
            probes.load_state_dict(done["probes"])
            return
        device = next(model.parameters()).device
        probes.to(device)
        teacher, optimizer = Teacher(model), torch.optim.Adam(probes.parameters(), lr=self.learning_rate)
        batches = ctx.batches(self.examples)
        for _ in range(self.epochs):
            for batch in ({name: value.to(device) for name, value in each.items()} for each in batches):
                hidden = teacher(batch, HIDDEN).captured["hidden_states"]
                said = probes([hidden[layer] for layer in layers], batch["attention_mask"])
                optimizer.zero_grad()
                torch.stack([tasks.loss(ctx.task, logits, batch) for logits in said]).sum().backward()
                optimizer.step()
        ctx.say(f"{NAME}: {len(probes)} probes trained on {sum(len(each['input_ids']) for each in batches)} examples")
        if kept is not None:
            kept.save_done({"probes": probes.state_dict()})
