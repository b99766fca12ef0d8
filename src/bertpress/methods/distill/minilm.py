"""Learn the attention of the teacher's last layer: its maps, and the relations of its values.

Source: MiniLM, Wang et al. 2020, arXiv:2002.10957, sections 3.1 (attention transfer), 3.2 (value relations) and 3.3
(teaching assistant: a chain of stages with ``teacher: previous``, see the recipe ``minilm-assistant``).
Departs from it: in what it is used on.  The paper distils a pre-trained teacher on unlabelled text and fine-tunes the
student afterwards; here the teacher may be fine-tuned, and ``task`` adds the task's loss to the same stage.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need
from bertpress.methods.layer_maps import check_tokens
from bertpress.methods.relations import Maps, Relations, attention_of, place_of
from bertpress.training.objectives import Objective, TaskLoss

NAME = "distill/minilm"


class MiniLM(Method):
    """Distil the last layer's attention maps and value relations, whatever the student's depth and width."""

    cite: ClassVar[str] = "Wang et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TEACHER, Need.TRAINING, Need.TOKENS})
    supervises: ClassVar[bool] = True  # the paper's distillation knows no labels

    attention: float = Field(1.0, ge=0, le=1000, description="Weight of the KL between the attention maps.")
    values: float = Field(1.0, ge=0, le=1000, description="Weight of the KL between the value relations.")
    task: float = Field(0.0, ge=0, le=1000, description="Weight of the task's own loss; the paper's has none.")

    @model_validator(mode="after")
    def _something(self) -> MiniLM:
        if not (self.attention or self.values or self.task):
            raise ValueError("attention=0 must not go with values=0 and task=0")
        return self

    def learns_task(self) -> bool:
        """Only by the task's own loss."""
        return self.task > 0

    def attach(self, model: Model, ctx: Context) -> Model:
        """See that maps can be compared head by head."""
        assert ctx.teacher is not None
        check_tokens(NAME, model, ctx.teacher)
        heads, there = (len(attention_of(side, -1, NAME).heads) for side in (model, ctx.teacher))
        if heads != there:
            raise RecipeError(
                f"{NAME}: the student's last layer has {heads} heads and must have the teacher's {there}; "
                "distill/minilmv2 takes any number"
            )
        return model

    def objectives(self, ctx: Context) -> list[Objective]:
        """One term each; those of weight 0 are left out."""
        assert ctx.teacher is not None
        layers = ctx.teacher.blueprint.layers
        heads, last = len(layers[-1].attention.heads), place_of(ctx.teacher, len(layers) - 1)
        terms: list[Objective] = [
            Maps(last, self.attention), Relations("values", last, heads, self.values), TaskLoss(weight=self.task)
        ]  # fmt: skip
        return [term for term in terms if term.weight]
