"""A shallower and narrower Transformer that starts from the teacher's own weights.

Source: the initialisation from teacher layers is that of DistilBERT (Sanh et al. 2019, arXiv:1910.01108, section 3)
and of "Well-read students" (Turc et al. 2019, arXiv:1908.08962); widths are cut by the importances of Michel et al.
2019 (arXiv:1905.10650, equation 2).  Departs from them: depth and width shrink in one step; the layers are by default
those that distillation with ``layer_map: uniform`` has the student learn, if the depths divide (``groups``), where
DistilBERT's evenly spaced ones (``uniform``) begin with the first: most layers start from one and learn another.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from bertpress.encoder.depth import Strategy, kept_layers
from bertpress.encoder.surgery import hidden_axes, keep_heads, keep_hidden, keep_layers, keep_neurons
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.selection import Size, count_of, keep_best
from bertpress.methods.students import fresh, smaller
from bertpress.training.importance import head_gates, neuron_gates, task_importance


def hidden_magnitude(model: Model) -> Tensor:
    """(hidden,) l2 norm of everything that is written to or read from each hidden dimension."""
    total = torch.zeros(model.blueprint.hidden_size, dtype=torch.float64)
    for name, weight in model.unique_weights():
        if weight.dim() < 2:
            continue
        for axis in hidden_axes(model.blueprint, name, weight):
            squares = weight.detach().double().square()
            total += squares.mean([i for i in range(weight.dim()) if i != axis])
    return total.sqrt()


class Transformer(Method):
    """Build a student of fewer layers, heads, neurons or hidden dimensions, from the teacher's weights."""

    cite: ClassVar[str] = "Sanh et al., 2019; Turc et al., 2019"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.LABELS, Need.CALIBRATION})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.SHALLOW, Trait.NARROW})

    layers: Size | None = Field(0.5, description="Layers: a number, a share of the teacher's, or null for all.")
    heads: Size | None = Field(None, description="Heads in each layer: a number, a share, or null for all.")
    ffn: Size | None = Field(None, description="Neurons in each feed-forward network: a number, a share, or null.")
    hidden_size: Size | None = Field(None, description="Hidden dimensions: a number, a share, or null for all.")
    start: Literal["teacher", "random"] = Field("teacher", description="Where the weights come from.")
    which: Strategy = Field("groups", description="Which of the teacher's layers the student starts from.")
    multiple_of: int = Field(32, ge=1, le=1024, description="Shares of widths are rounded to what the hardware likes.")
    examples: int = Field(256, ge=1, le=100_000, description="Training examples that the importance is measured on.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Cut the teacher to the student's shape, or build it afresh."""
        depth = len(model.blueprint.layers)
        try:
            kept = kept_layers(self.which, depth, depth - count_of(self.layers, depth, "layers"))
            student = self._random(model, kept, ctx) if self.start == "random" else self._cut(model, kept, ctx)
        except ValueError as fault:
            raise RecipeError(f"student/transformer: {fault}") from None
        shape = student.blueprint
        ctx.say(
            f"student/transformer: {len(shape.layers)} of {depth} layers, hidden {shape.hidden_size}, "
            f"heads {len(shape.layers[0].attention.heads)}, ffn {sum(shape.layers[0].ffn)}"
        )
        return student

    def _cut(self, model: Model, kept: list[int], ctx: Context) -> Model:
        heads, neurons = self._heads(model, ctx), self._neurons(model, ctx)
        student = keep_neurons(keep_heads(model, heads), neurons) if heads or neurons else model
        student = keep_layers(student, kept)
        hidden = count_of(self.hidden_size, model.blueprint.hidden_size, "hidden_size", multiple=self.multiple_of)
        if hidden < model.blueprint.hidden_size:
            order = torch.argsort(hidden_magnitude(student), descending=True, stable=True)
            student = keep_hidden(student, order[:hidden].tolist())
        return student

    def _heads(self, model: Model, ctx: Context) -> dict[int, list[int]]:
        if self.heads is None:
            return {}
        scores = task_importance(model, ctx.task, head_gates(model), ctx.batches(self.examples))
        kept = {}
        for layer, value in scores.items():
            count = count_of(self.heads, len(value), "heads")
            positions = keep_best({layer: value}, count / len(value), scope="layer")[layer]
            kept[layer] = [model.blueprint.layers[layer].attention.heads[i] for i in positions]
        return kept

    def _neurons(self, model: Model, ctx: Context) -> dict[tuple[int, int], list[int]]:
        if self.ffn is None:
            return {}
        scores = task_importance(model, ctx.task, neuron_gates(model), ctx.batches(self.examples))
        kept = {}
        for key, value in scores.items():
            count = count_of(self.ffn, len(value), "ffn", multiple=self.multiple_of)
            kept[key] = keep_best({key: value}, count / len(value), scope="layer")[key]
        return kept

    def _random(self, model: Model, kept: list[int], ctx: Context) -> Model:
        if model.blueprint.relative is not None or any(layer.bottleneck for layer in model.blueprint.layers):
            raise ValueError("start=random needs a teacher without relative positions and bottlenecks")
        shape = smaller(
            model.blueprint, len(kept), hidden_size=self.hidden_size, heads=self.heads, ffn=self.ffn,
            multiple_of=self.multiple_of,
        )  # fmt: skip
        return fresh(shape, model, ctx.seed)

    @classmethod
    def noop(cls) -> Transformer:
        """All of the teacher reproduces it."""
        return cls(layers=None)
