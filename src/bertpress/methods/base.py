"""What every compression method is: validated parameters, and hooks that default to doing nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from bertpress.encoder.model import BertpressPreTrainedModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainerCallback

    from bertpress.artifact.codecs import Stored
    from bertpress.tasks import Encoded, Rows, Task
    from bertpress.training.objectives import Objective
    from bertpress.training.passes import Pass

Model = BertpressPreTrainedModel
Guesser = Literal["student", "teacher"]


class Need(Enum):
    """What a method cannot do without; checked before any weight is loaded."""

    LABELS = "labelled training data"
    TEACHER = "a teacher"
    CALIBRATION = "calibration text"
    TRAINING = "a stage that trains"
    UNLABELLED = "a stage with data: unlabelled"
    PAIRS = "two texts in a row"
    TOKENS = "a teacher that reads the same tokens"


class Trait(Enum):
    """What a model becomes by a method; later methods may conflict with it."""

    SHALLOW = "fewer layers"
    NARROW = "fewer heads, neurons or hidden dimensions"
    INT8 = "8-bit integers"
    SPARSE = "zeros among its weights"
    LOW_RANK = "matrices that are products of two"
    VOCABULARY = "another vocabulary"
    SHARED = "layers that share weights"
    EXITS = "early exits"
    TOKENS = "tokens that leave on the way"


@dataclass
class Context:
    """What the runner hands to every hook of a stage.

    Attributes:
        task: what is learnt.
        tokenizer: may be replaced by a method in ``attach``; texts are tokenized after that.
        seed: of this stage.
        teacher: the frozen teacher, where the run has one.
        teacher_tokenizer: the one that the teacher reads text with.
        pretrained: the model as it was handed in, before any stage; to rewind to.
        masked_lm: loads the model as it was handed in with its masked-LM head; None where it has none.
        unlabelled: the stage trains on text without labels; logits are those of the words to guess.
        train: encoded training examples; from ``objectives`` on, as texts are tokenized after ``attach``.
        texts: the distinct texts of the train split, and those without labels where the run has any.
        calibration: makes padded batches of so many examples of training text, in a fixed order or by length.
        metric: a model's metric of the task on so many rows cut from train.
        state: what lives only while training (projections, gates); checkpointed, never in the artifact.
        round: which repetition of the stage this is, from 0.
        folder: where a method may leave files that it wants to find again after a resume.
        stored: how the weights were stored by the stage before, where this one trains and so lets go of it.
        notes: plain data that a method wants the report to show; kept in the stage's figures under ``notes``.
        say: shows one line of progress.
    """

    task: Task
    tokenizer: PreTrainedTokenizerBase
    seed: int
    teacher: Model | None = None
    teacher_tokenizer: PreTrainedTokenizerBase | None = None
    pretrained: Model | None = None
    masked_lm: Callable[[], Model | None] = lambda: None
    unlabelled: bool = False
    train: Encoded | None = None
    texts: Callable[[], Sequence[str]] = lambda: ()
    calibration: Callable[[int, bool], Sequence[dict[str, Tensor]]] | None = None
    metric: Callable[[Model, int], float] | None = None
    state: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    round: int = 0
    folder: Path | None = None
    stored: Mapping[str, Stored] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = lambda _: None

    def batches(self, examples: int, *, by_length: bool = False) -> Sequence[dict[str, Tensor]]:
        """Padded batches of the first ``examples`` calibration examples.

        Args:
            examples: how many.
            by_length: texts of like length share a batch, which saves pads, and the time that they take, where it does
                not matter which of them do.

        Raises:
            RuntimeError: outside a run that has data; recipes are checked for it before any weight is loaded.
        """
        if self.calibration is None:
            raise RuntimeError("this method needs calibration text, and the run has none")
        return self.calibration(examples, by_length)

    def score(self, model: Model, examples: int) -> float:
        """The task's metric, or the user's own, of a model on ``examples`` rows cut from train, never on validation.

        Raises:
            RuntimeError: outside a run that has data.
        """
        if self.metric is None:
            raise RuntimeError("this method needs rows to score models on, and the run has none")
        return self.metric(model, examples)

    def generator(self) -> torch.Generator:
        """A random source that depends on the seed of the stage alone."""
        return torch.Generator().manual_seed(self.seed)


class Method(BaseModel):
    """Parameters of a compression method, and what it does around one training run.

    A subclass is the one public Method of its file.  Its docstring gives summary and source; each field has bounds
    and a description, from which follow the check, the error message, the documentation and the search range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cite: ClassVar[str] = ""
    requires: ClassVar[frozenset[Need]] = frozenset()
    provides: ClassVar[frozenset[Trait]] = frozenset()
    conflicts: ClassVar[frozenset[Trait]] = frozenset()
    supervises: ClassVar[bool] = False  # True: its objectives take the place of the task loss
    unsupervised: ClassVar[bool] = False  # True: knows of no task, and stands no loss of one beside its own

    quantizes: ClassVar[bool] = False  # True: puts weights on grids, of which a cut or another value knows nothing
    settles: ClassVar[bool] = False  # True: finishes before methods that build the model anew
    moves: ClassVar[bool] = False  # True: gives weights that stay other values, in a stage without training too
    reshapes: ClassVar[bool] = False  # True: some steps run fewer layers or heads, so that none can be compared

    def guessers(self) -> frozenset[Guesser]:
        """Whose guesses of masked words its terms read, where the stage trains on unlabelled text."""
        return frozenset()

    def learns_task(self) -> bool:
        """Whether its terms need to know the task: labels, or a teacher's answers; text alone tells neither."""
        return self.supervises

    def attach(self, model: Model, ctx: Context) -> Model:
        """Before training: cut, insert, parametrize, or build the student."""
        return model

    def training_rows(self, rows: Rows, ctx: Context) -> Rows:
        """The rows to train on, before they are tokenized; where the label is None the teacher alone knows it."""
        return rows

    def objectives(self, ctx: Context) -> list[Objective]:
        """Loss terms while training."""
        return []

    def passes(self, ctx: Context) -> list[Pass]:
        """Forward passes of a training step, in place of the one of the model as it is; of one method in a stage."""
        return []

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """Schedules while training."""
        return []

    def finish(self, model: Model, ctx: Context) -> Model:
        """After training, with every transform baked: cut for real, choose how weights are stored."""
        return model

    @classmethod
    def noop(cls) -> Any:
        """The setting that reproduces the model, or None where there is none."""
        return None

    @classmethod
    def brings_passes(cls) -> bool:
        """Whether :meth:`passes` is its own."""
        return cls.passes is not Method.passes

    @classmethod
    def cuts(cls) -> bool:
        """Whether it changes the shapes of weights."""
        return bool(cls.provides & {Trait.SHALLOW, Trait.NARROW, Trait.LOW_RANK, Trait.SHARED})

    @classmethod
    def cuts_late(cls) -> bool:
        """Whether it does so when the stage ends."""
        return cls.cuts() and cls.finish is not Method.finish

    @classmethod
    def follows_teacher(cls) -> bool:
        """Whether it has a loss that the teacher answers for, of rows without a label too."""
        return Need.TEACHER in cls.requires and cls.objectives is not Method.objectives

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return (cls.__doc__ or "").strip().splitlines()[0]
