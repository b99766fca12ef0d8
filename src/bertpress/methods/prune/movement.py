"""Learn which weights matter for the task: those that training moves away from zero stay.

Source: Sanh, Wolf & Rush 2020, "Movement pruning: adaptive sparsity by fine-tuning", arXiv:2005.07683, sections 3 and
4.  Each weight has a score; the mask is 1 where the score is among the largest share of its matrix (hard), or where
its sigmoid exceeds a threshold (soft), and the straight-through gradient of a score is that of the masked weight times
the weight.  The share falls, or the threshold rises, along a cubic schedule.
Departs from it: begin and end of the schedule are shares of the training run; its L0 baseline is left out.  Scores may
start from the weights' magnitudes, so that a run too short to tell movement from noise begins like magnitude pruning.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import TrainerCallback

from bertpress.encoder.transforms import put
from bertpress.methods.base import Context, Model, Need
from bertpress.methods.masks import largest
from bertpress.methods.movement_scores import above, masked, mean_activity
from bertpress.methods.sparsity import Gradual, told
from bertpress.methods.transform import WeightTransform
from bertpress.training.objectives import Objective, Penalty
from bertpress.training.optimizer import Optimization

STATE = "movement"
SINGLE = (1, 1)  # each weight has a score of its own


class Scored(WeightTransform):
    """Gives the weight where its score says so and zero elsewhere; scores are trained with it.

    Attributes:
        scores: the shape of the weight.
        alive: bool, the same shape: what an earlier stage has pruned is never kept.
        level: share that is kept, or threshold of the sigmoid; float64, ().
    """

    alive: Tensor
    level: Tensor

    def __init__(self, start: Tensor, alive: Tensor, learning_rate: float, level: float) -> None:
        super().__init__()
        self.register_buffer("alive", alive)
        self.scores = nn.Parameter(start)
        self.optimization = Optimization(learning_rate=learning_rate, weight_decay=0.0)
        self.register_buffer("level", torch.tensor(level, dtype=torch.float64))

    def kept(self) -> Tensor:
        """Bool, the shape of the weight."""
        raise NotImplementedError

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape as ``weight``."""
        return masked(weight, self.scores, self.kept(), SINGLE)


class TopScores(Scored):
    """Keeps the weights of largest score, exactly the share ``level`` of them."""

    def kept(self) -> Tensor:
        """Of equal scores the first."""
        scores = self.scores.detach().masked_fill(~self.alive, -torch.inf)
        return largest(scores, round(float(self.level) * scores.numel())) & self.alive


class HighScores(Scored):
    """Keeps the weights whose sigmoid of the score is above ``level``, but never less than a share.

    Args:
        start: scores, the shape of the weight.
        alive: see :class:`Scored`.
        learning_rate: of the scores.
        floor: the share.
    """

    def __init__(self, start: Tensor, alive: Tensor, learning_rate: float, floor: float) -> None:
        super().__init__(start, alive, learning_rate, 0.0)
        self.floor = floor

    def kept(self) -> Tensor:
        """A number that the scores decide."""
        return above(self.scores.masked_fill(~self.alive, -torch.inf), float(self.level), self.floor) & self.alive


def relative_magnitude(weight: Tensor) -> Tensor:
    """Each weight's magnitude over the mean of its matrix, same shape; 0 for a matrix of zeros."""
    sizes = weight.abs()
    return sizes / sizes.mean().clamp(min=torch.finfo(sizes.dtype).tiny)


def activity(transforms: Sequence[Scored], final: float) -> Tensor:
    """Mean sigmoid of the scores, averaged over the matrices, times how far the threshold has come; a scalar."""
    return mean_activity([each.scores for each in transforms]) * float(transforms[0].level) / final


class Levels(TrainerCallback):  # type: ignore[misc]
    """Moves the level of all scores along the schedule, and to its end when training ends."""

    def __init__(self, method: Movement) -> None:
        self.method = method

    def on_step_begin(self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **_: Any) -> None:
        """The level of this step."""
        self._set(model, self.method.level(state.global_step, state.max_steps))

    def on_train_end(self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **_: Any) -> None:
        """The last level, whichever weights were chosen."""
        self._set(model, self.method.level(1, 1))

    def _set(self, model: nn.Module | None, level: float) -> None:
        assert model is not None
        for module in model.modules():
            if isinstance(module, Scored):
                module.level.fill_(level)


class Movement(Gradual):
    """Learn a score for each weight while fine-tuning, and keep the weights that move away from zero."""

    cite: ClassVar[str] = "Sanh et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAINING})

    variant: Literal["hard", "soft"] = Field("hard", description="Keep a share of each matrix, or what is high enough.")
    keep: float = Field(0.15, gt=0, le=1, description="hard: share of each matrix that stays.")
    threshold: float = Field(0.1, gt=0, lt=1, description="soft: sigmoid of a score above which its weight stays.")
    penalty: float = Field(400.0, ge=0, le=1_000_000, description="soft: weight of the scores' mean; more: fewer stay.")
    floor: float = Field(0.005, ge=0, le=1, description="soft: share of each matrix that stays in any case.")
    start: Literal["zero", "magnitude"] = Field(
        "zero", description="Scores to begin with; magnitude: each weight's over the mean of its matrix."
    )
    score_learning_rate: float = Field(1e-2, gt=0, le=10, description="Peak learning rate of the scores.")
    end: float = Field(0.8, ge=0, le=1, description="Share of the steps after which no more go; as begin: all at once.")
    freeze_embeddings: bool = Field(True, description="The embeddings are not trained.")

    def level(self, step: int, steps: int) -> float:
        """Share that is kept, or threshold, at a step; the last one where ``step`` is ``steps``."""
        initial, final = (1.0, self.keep) if self.variant == "hard" else (0.0, self.threshold)
        return final if step == steps else self.at(step, steps, initial=initial, final=final)

    def attach(self, model: Model, ctx: Context) -> Model:
        """Scores on every weight; they train where the weights that they lie on do not."""
        model.encoder.embeddings.requires_grad_(not self.freeze_embeddings)
        for name in self.weights(model):
            put(model, name, self._scored(model.get_parameter(name).detach()))
        ctx.state[STATE] = nn.ModuleList(module for module in model.modules() if isinstance(module, Scored))
        return model

    def _scored(self, weight: Tensor) -> Scored:
        start = torch.zeros_like(weight) if self.start == "zero" else relative_magnitude(weight)
        if self.variant == "hard":
            return TopScores(start, weight != 0, self.score_learning_rate, 1.0)
        return HighScores(start, weight != 0, self.score_learning_rate, self.floor)

    def objectives(self, ctx: Context) -> list[Objective]:
        """Soft: the penalty, without which nothing would be pruned."""
        if self.variant == "hard" or not self.penalty:
            return []
        transforms = list(ctx.state[STATE])  # type: ignore[call-overload]
        return [Penalty("scores", partial(activity, transforms, self.threshold), weight=self.penalty)]

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """The schedule."""
        return [Levels(self)]

    def finish(self, model: Model, ctx: Context) -> Model:
        """Say what is left; the scores are gone."""
        model.encoder.embeddings.requires_grad_(True)
        ctx.say(f"prune/movement keeps {told(model.get_parameter(name) != 0 for name in self.weights(model))}")
        return model
