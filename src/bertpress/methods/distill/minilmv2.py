"""Learn how queries, keys and values of a teacher's layer relate to themselves, in heads cut anew.

Source: MiniLMv2, Wang et al. 2021, arXiv:2012.15828, sections 3.1 (self-attention relations), 3.2 (relation heads) and
3.3 (which layer: the last of a base model, an upper middle one of a large model, such as 21 of 24).
Departs from it: as ``distill/minilm`` in what it is used on; where a model is too narrow for the paper's 48 relation
heads, there are as many as both widths allow.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need
from bertpress.methods.layer_maps import check_tokens
from bertpress.methods.relations import Relations, attention_of, place_of, relation_heads
from bertpress.training.objectives import Objective, TaskLoss

NAME = "distill/minilmv2"


class MiniLMv2(Method):
    """Distil the relations among queries, keys and values of one layer, whatever the student's shape."""

    cite: ClassVar[str] = "Wang et al., 2021"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TEACHER, Need.TRAINING, Need.TOKENS})
    supervises: ClassVar[bool] = True  # the paper's distillation knows no labels

    relation_heads: int | None = Field(
        None, ge=1, le=65_536, description="Heads that both sides are cut into; null: 48, or what the widths allow."
    )
    teacher_layer: int | None = Field(None, ge=1, le=1000, description="Of the teacher, from 1; null: the last.")
    queries: float = Field(1.0, ge=0, le=1000, description="Weight of the KL between the query relations.")
    keys: float = Field(1.0, ge=0, le=1000, description="Weight of the KL between the key relations.")
    values: float = Field(1.0, ge=0, le=1000, description="Weight of the KL between the value relations.")
    task: float = Field(0.0, ge=0, le=1000, description="Weight of the task's own loss; the paper's has none.")

    @model_validator(mode="after")
    def _something(self) -> MiniLMv2:
        if not (self.queries or self.keys or self.values or self.task):
            raise ValueError("queries=0 must not go with keys=0, values=0 and task=0")
        return self

    def learns_task(self) -> bool:
        """Only by the task's own loss."""
        return self.task > 0

    def attach(self, model: Model, ctx: Context) -> Model:
        """See that the layer is there, and can be cut like the student's."""
        assert ctx.teacher is not None
        check_tokens(NAME, model, ctx.teacher)
        depth = len(ctx.teacher.blueprint.layers)
        if self.teacher_layer is not None and self.teacher_layer > depth:
            raise RecipeError(f"{NAME}: teacher_layer={self.teacher_layer} must be at most {depth}")
        here, there = attention_of(model, -1, NAME), attention_of(ctx.teacher, self._layer(ctx.teacher), NAME)
        try:
            relation_heads(self.relation_heads, here.query_width, there.query_width)
            relation_heads(self.relation_heads, here.value_width, there.value_width)
        except ValueError as fault:
            raise RecipeError(f"{NAME}: {fault} of student and teacher") from None
        return model

    def objectives(self, ctx: Context) -> list[Objective]:
        """One term each; those of weight 0 are left out."""
        assert ctx.teacher is not None
        place = place_of(ctx.teacher, self._layer(ctx.teacher))
        terms: list[Objective] = [
            Relations("queries", place, self.relation_heads, self.queries),
            Relations("keys", place, self.relation_heads, self.keys),
            Relations("values", place, self.relation_heads, self.values),
            TaskLoss(weight=self.task),
        ]
        return [term for term in terms if term.weight]

    def _layer(self, teacher: Model) -> int:
        return (self.teacher_layer or len(teacher.blueprint.layers)) - 1
