"""Learn for each head how far it has to look.

Source: Adaptive attention span, Sukhbaatar et al. 2019, arXiv:1905.07799, section 2.2: a mask that falls from 1 to 0
over a ramp behind each head's span weighs the maps before they are normalised, and the mean span is a term of the loss.
For encoders: EdgeBERT, Tambe et al. 2020, arXiv:2011.14203, section 3.2.
Departs from them: distances to both sides; spans are in tokens with a learning rate of their own, and begin as long as
the task's longest input, where they change nothing; they do not depend on the input.  Once learnt, a layer computes the
band of its widest head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import TrainerCallback

from bertpress.encoder.pattern_specs import SpanSpec
from bertpress.encoder.patterns import Span as SpanPattern
from bertpress.encoder.surgery import rebuild
from bertpress.encoder.transforms import put
from bertpress.methods.base import Context, Model, Need
from bertpress.methods.patterned import Patterned, with_patterns
from bertpress.methods.transform import WeightTransform
from bertpress.training.objectives import Objective, Penalty
from bertpress.training.optimizer import Optimization

STATE = "spans"


class LearnedSpans(WeightTransform):
    """Gives the spans that are trained for the ones that are stored.

    Attributes:
        spans: (heads,), positions.
    """

    def __init__(self, heads: int, start: float, learning_rate: float) -> None:
        super().__init__()
        self.spans = nn.Parameter(torch.full((heads,), start))
        self.optimization = Optimization(learning_rate=learning_rate, weight_decay=0.0)

    def forward(self, stored: Tensor) -> Tensor:
        """(heads,), whatever is stored."""
        return self.spans


def mean_span(layers: Sequence[LearnedSpans]) -> Tensor:
    """Positions, over all heads of all layers; a scalar."""
    return torch.cat([layer.spans for layer in layers]).mean()


def band(spans: Tensor, ramp: int) -> int:
    """The largest distance at which any head of these spans still looks."""
    return max(0, math.ceil(float(spans.max()) + ramp) - 1)


class Clamp(TrainerCallback):  # type: ignore[misc]
    """Keeps spans between 0 and the longest input."""

    def __init__(self, layers: Sequence[LearnedSpans], longest: float) -> None:
        self.layers, self.longest = layers, longest

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After each update."""
        for layer in self.layers:
            layer.spans.data.clamp_(0, self.longest)


class Span(Patterned):
    """Learn for each head how many tokens away it looks, and compute no more than that."""

    cite: ClassVar[str] = "Sukhbaatar et al., 2019"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAINING})

    ramp: int = Field(32, ge=1, le=65_536, description="Tokens over which a head's weight falls from 1 to 0.")
    penalty: float = Field(0.01, ge=0, le=1000, description="Weight of the mean span, in tokens, in the loss.")
    span_learning_rate: float = Field(0.2, gt=0, le=100, description="Peak learning rate of the spans, in tokens.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Spans as long as the longest input, put on the layers to be trained."""
        place = "attention/span"
        chosen = self.chosen(model, place)
        model = with_patterns(model, dict.fromkeys(chosen, SpanSpec(kind="span", ramp=self.ramp)), place)
        learned = []
        for name, module in list(model.named_modules()):
            if isinstance(module, SpanPattern) and module.spec.band is None:
                spans = LearnedSpans(len(module.span), float(ctx.task.max_length), self.span_learning_rate)
                put(model, f"{name}.span", spans)
                learned.append(spans)
        ctx.state[STATE] = nn.ModuleList(learned)
        return model

    def objectives(self, ctx: Context) -> list[Objective]:
        """The mean span."""
        return [Penalty("span", partial(mean_span, _learned(ctx)), weight=self.penalty)] if self.penalty else []

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """What keeps the spans within bounds."""
        return [Clamp(_learned(ctx), float(ctx.task.max_length))]

    def finish(self, model: Model, ctx: Context) -> Model:
        """Set each layer's band by its widest head."""
        layers, told = list(model.blueprint.layers), []
        for i, layer in enumerate(layers):
            pattern, owner = layer.attention.pattern, i if layer.attention_from is None else layer.attention_from
            if layer.attention.heads and isinstance(pattern, SpanSpec) and pattern.band is None:
                spans = model.get_buffer(f"encoder.layers.{owner}.attention.pattern.span")
                told.append(f"{float(spans.mean()):.0f}")
                fixed = pattern.model_copy(update={"band": band(spans, self.ramp)})
                attention = layer.attention.model_copy(update={"pattern": fixed})
                layers[i] = layer.model_copy(update={"attention": attention})
        ctx.say(f"attention/span: mean spans of {'/'.join(told)} tokens, ramp {self.ramp}")
        return rebuild(model, model.blueprint.with_layers(tuple(layers)), model.state_dict(), model.storage)

    @classmethod
    def noop(cls) -> Span:
        """Spans that nothing pulls down stay as long as any text."""
        return cls(penalty=0.0)


def _learned(ctx: Context) -> list[LearnedSpans]:
    return [each for each in ctx.state[STATE].children() if isinstance(each, LearnedSpans)]
