"""Replace modules of the model by shorter ones while it trains, until only those are left.

Source: BERT-of-Theseus, Xu et al. 2020, arXiv:2002.02925, sections 3.1 (replacing), 3.2 (successor fine-tuning) and
3.3 (curriculum).  In each step every module is the successor's with probability p, and the predecessor's otherwise;
the task's loss alone trains the successor; at p = 1 the successor is fine-tuned on its own.
Departs from it: a successor module is always one layer.  Embeddings and head stay frozen to the end as in the authors'
code (``freeze: false`` trains them).
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from bertpress.encoder.depth import Strategy, kept_layers
from bertpress.encoder.layers import EncoderLayer
from bertpress.encoder.model import Encoder, all_layers
from bertpress.encoder.surgery import keep_layers
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.layer_plan import LayerPlan
from bertpress.training import schedules

if TYPE_CHECKING:
    from transformers import TrainerCallback

Schedule = Literal["constant", "linear"]
STATE = "predecessor"


def replacing_rate(step: int, total: int, *, rate: float, schedule: Schedule, until: float) -> float:
    """Probability with which a module is the successor's.

    Args:
        step: updates that were made.
        total: updates of the whole run.
        rate: at the beginning.
        schedule: ``constant``: ``rate``, then 1; ``linear``: rising to 1 (the paper's min(1, kt + b), b = ``rate``).
        until: share of the updates after which it is 1.
    """
    if schedule == "linear":
        return schedules.linear(step, initial=rate, final=1.0, begin=0, end=until * total)
    return rate if step < until * total else 1.0


def mixed(encoder: Encoder, predecessor: nn.ModuleList, rate: float) -> Iterator[EncoderLayer]:
    """The layers of one pass: one of the encoder's, or those of the predecessor that it stands for.

    Args:
        encoder: the successor's, n layers.
        predecessor: a multiple of n layers.
        rate: probability of the successor's, for each module, by torch's global generator.
    """
    size = len(predecessor) // len(encoder.layers)
    replaced = (torch.rand(len(encoder.layers)) < rate).tolist()
    for i, layer in enumerate(all_layers(encoder)):
        yield from [layer] if replaced[i] else predecessor[i * size : (i + 1) * size]  # type: ignore[misc]


class Replacement(LayerPlan):
    """Follows the schedule of the replacing rate; freezes embeddings and head where asked."""

    def __init__(self, method: Theseus, predecessor: nn.ModuleList) -> None:
        super().__init__(lambda encoder: mixed(encoder, predecessor, self.rate))
        self.method, self.rate = method, method.rate

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Model | None = None, **more: Any) -> None:
        """Freeze, and follow the plan."""
        assert model is not None
        if self.method.freeze:
            for name, weight in model.named_parameters():
                if not name.startswith("encoder.layers."):
                    weight.requires_grad_(False)
        super().on_train_begin(args, state, control, model=model, **more)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The rate of this step."""
        method = self.method
        self.rate = replacing_rate(
            state.global_step, state.max_steps, rate=method.rate, schedule=method.schedule, until=method.until
        )


class Theseus(Method):
    """Replace groups of layers by single layers, at random and ever more often, while the rest stays frozen."""

    cite: ClassVar[str] = "Xu et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAINING})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.SHALLOW})
    reshapes: ClassVar[bool] = True
    conflicts: ClassVar[frozenset[Trait]] = frozenset({Trait.SHARED})

    layers: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="Layers of the successor: a number, or a share of the depth; must divide it."
    )
    which: Strategy = Field("top", description="Layers that go before the successor starts from the rest.")
    schedule: Schedule = Field("constant", description="How the replacing rate becomes 1: at once, or linearly.")
    rate: float = Field(0.5, gt=0, le=1, description="Replacing rate at the beginning; the paper's linear one: 0.3.")
    until: float = Field(0.5, ge=0, le=1, description="Share of the steps after which the successor runs alone.")
    freeze: bool = Field(True, description="Leave embeddings and head as they are.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Cut the successor; the predecessor's layers go on beside it, frozen."""
        specs = model.blueprint.layers
        depth = len(specs)
        count = max(1, round(self.layers * depth)) if isinstance(self.layers, float) else self.layers
        if count > depth or depth % count:
            raise RecipeError(f"prune/theseus: layers={self.layers} must divide the {depth} layers of the model")
        if any(spec.attention_from is not None or spec.ffn_from is not None for spec in specs):
            raise RecipeError("prune/theseus: the model must not share weights among its layers")
        try:
            successor = keep_layers(model, kept_layers(self.which, depth, depth - count))
        except ValueError as fault:
            raise RecipeError(f"prune/theseus: {fault}") from None
        ctx.state[STATE] = deepcopy(model.encoder.layers).requires_grad_(False)
        return successor

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """Replace."""
        predecessor = ctx.state[STATE]
        assert isinstance(predecessor, nn.ModuleList)
        return [Replacement(self, predecessor)]
