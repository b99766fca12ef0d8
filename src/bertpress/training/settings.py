"""How long and how fast to train: the ``train:`` section of a stage of a recipe."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_BOOKKEEPING = frozenset({"checkpoint_seconds", "report_to", "log_points"})


class TrainSettings(BaseModel):
    """Settings of one training run; every field is bounded, unknown ones are refused.

    The weights that come out depend on all fields but ``checkpoint_seconds``, ``log_points`` and ``report_to``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: float = Field(3.0, gt=0, le=10_000, description="Passes over the data; a fraction is a part of a pass.")
    max_examples: int | None = Field(
        None, ge=1, description="Train on at most this many examples of the split, chosen once by the seed."
    )
    max_steps: int | None = Field(None, ge=1, description="Stop after this many updates, whatever is left of epochs.")
    max_seconds: float | None = Field(
        None,
        gt=0,
        description="Shorten the run so that it ends by then; the schedule is shortened with it. Gives up sameness of "
        "two runs' weights, as the clock then decides how many steps there are.",
    )
    batch_size: int = Field(32, ge=1, le=65_536, description="Examples in one forward pass of one process.")
    accumulate: int = Field(1, ge=1, le=4096, description="Forward passes whose gradients one step sums.")
    learning_rate: float = Field(5e-5, gt=0, le=10, description="Peak learning rate of the model's weights.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="Fall of the learning rate to zero after the warm-up."
    )
    warmup_ratio: float = Field(0.06, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    weight_decay: float = Field(0.01, ge=0, le=10, description="AdamW's decay of matrices and tables.")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's decay of the mean gradient.")
    beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's decay of the mean squared gradient.")
    epsilon: float = Field(1e-8, gt=0, le=1, description="AdamW's term against division by zero.")
    max_grad_norm: float = Field(1.0, ge=0, description="Longer gradients are scaled down to this norm; 0: never.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Arithmetic of forward passes; auto: bfloat16 where the processor has instructions for it."
    )
    cache_teacher: Literal["logits", "all"] = Field(
        "logits",
        description="What is kept on disk of the teacher's answers: logits alone, or all that the losses read. It runs "
        "live where that is not enough, or too much for the disk.",
    )
    select: Literal["last", "best"] = Field(
        "last", description="Which weights to keep: the last, or those with the best validation metric."
    )
    evaluations_per_epoch: int = Field(1, ge=1, le=1000, description="Looks at the validation data in an epoch.")
    checkpoint_seconds: float = Field(30.0, ge=0, le=3600, description="Time between two checkpoints.")
    log_points: int = Field(100, ge=1, le=100_000, description="Points of the training curve.")
    report_to: tuple[str, ...] = Field((), description="Trackers of transformers: tensorboard, mlflow, wandb, ...")

    def decisive(self) -> dict[str, Any]:
        """The fields that decide the weights that come out, as JSON."""
        return self.model_dump(mode="json", exclude=set(_BOOKKEEPING))
