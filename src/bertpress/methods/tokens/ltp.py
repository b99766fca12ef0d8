"""Learn a threshold for each layer, and let the tokens go whose mean attention is below it.

Source: learned token pruning, Kim et al. 2022, arXiv:2107.00910, section 3.  A token's score is the attention that it
gets, averaged over heads and queries; layer l of L drops those below theta_L l / L + delta_l.  Soft: the layer's output
is multiplied by sigmoid((score - threshold) / temperature), and the loss gets the mean of these masks, so that the
deltas learn.  Hard: thresholds are fixed and tokens leave, which a stage of plain training afterwards gets used to.
Departs from it: averages are over real queries, the first token never leaves, and hard rules act before the layer's
feed-forward network, where a token that leaves has nothing more to give.  A soft mask goes on to the layers above, as
the product of those below, and a faded token is looked at, and pooled, as little as its mask says: at a small
temperature the soft model is the hard one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback

from bertpress.encoder.elimination import Present, mean_attention
from bertpress.encoder.token_specs import ThresholdSpec
from bertpress.methods.base import Context, Model, Need, Trait
from bertpress.methods.elimination import Eliminating, SoftRules, layers_with_heads, with_rules
from bertpress.training.objectives import Objective, Penalty
from bertpress.training.optimizer import Optimization

NAME, STATE = "tokens/ltp", "thresholds"


def soft_mask(scores: Tensor, threshold: Tensor, temperature: float) -> Tensor:
    """sigmoid((score - threshold) / temperature), but 1 for the first token; (batch, tokens), as the scores."""
    mask = ((scores - threshold) / temperature).sigmoid()
    return torch.cat([torch.ones_like(mask[:, :1]), mask[:, 1:]], dim=1)


class Thresholds(nn.Module):
    """The thresholds of some layers, and the masks of the last pass.

    Attributes:
        layers: their numbers, from 0.
        deltas: (layers,), what is learnt.
        start: (layers,), what they are added to.
        means: of each layer's mask over the real tokens of the last batch, by layer.
    """

    start: Tensor

    def __init__(self, layers: Sequence[int], depth: int, last: float, learning_rate: float | None) -> None:
        super().__init__()
        self.layers = list(layers)
        self.register_buffer("start", last * (torch.tensor(self.layers) + 1) / depth)
        self.deltas = nn.Parameter(torch.zeros(len(self.layers)))
        self.optimization = Optimization(learning_rate=learning_rate, weight_decay=0.0)
        self.means: dict[int, Tensor] = {}

    def values(self) -> Tensor:
        """(layers,)."""
        return self.start + self.deltas

    def forward(self) -> Tensor:
        """The mean of all masks of the last pass, a scalar."""
        return torch.stack([self.means[i] for i in self.layers]).mean()


class Soft:
    """Fades tokens of low score, for the layers above and in the layer's output.

    Args:
        thresholds: of all layers.
        row: of this layer there.
        temperature: of the sigmoid.
    """

    reads: str = ThresholdSpec.reads

    def __init__(self, thresholds: Thresholds, row: int, temperature: float) -> None:
        self.thresholds, self.row, self.temperature = thresholds, row, temperature
        self.weights: Tensor | None = None

    def __call__(self, present: Present, read: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        """See :class:`bertpress.encoder.elimination.Rule`; every token stays."""
        scores = mean_attention(read, present.weights)
        mask = soft_mask(scores, self.thresholds.values()[self.row], self.temperature)
        real = torch.arange(mask.shape[1], device=mask.device) < present.lengths
        self.thresholds.means[self.thresholds.layers[self.row]] = mask[real].mean()
        self.weights = present.weights * mask
        present.become(self.weights, whole=False)
        return list(states)

    def fade(self, layer: nn.Module, args: Any, out: Tensor) -> Tensor:
        """Behind the layer: its output times what is left of each token."""
        assert self.weights is not None
        return out * self.weights[:, :, None]


class Fading(SoftRules):
    """Soft rules whose layers fade their output too."""

    def __init__(self, rules: Mapping[int, Soft]) -> None:
        super().__init__(rules)
        self.soft, self.hooks = rules, list[RemovableHandle]()

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Model | None = None, **more: Any) -> None:
        """Follow the rules."""
        super().on_train_begin(args, state, control, model, **more)
        assert model is not None
        for i, rule in self.soft.items():
            self.hooks.append(model.encoder.layers[i].register_forward_hook(rule.fade))

    def on_train_end(self, args: Any, state: Any, control: Any, model: Model | None = None, **more: Any) -> None:
        """Every token stays again."""
        super().on_train_end(args, state, control, model, **more)
        while self.hooks:
            self.hooks.pop().remove()


class Ltp(Eliminating):
    """Learn how much attention a token must get in each layer to stay, so that long and easy texts lose more."""

    cite: ClassVar[str] = "Kim et al., 2022"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAINING})
    conflicts: ClassVar[frozenset[Trait]] = Eliminating.conflicts | {Trait.INT8}

    thresholds: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = Field(
        None, min_length=1, description="Of the layers, from below; the last holds for those above. null: learnt."
    )
    last: float = Field(
        0.01, ge=0, le=1, description="Threshold of the last layer to begin with; below, it rises to it."
    )
    temperature: float = Field(1e-3, gt=0, le=1, description="Of the soft masks; the paper's: 1e-4 to 2e-3.")
    penalty: float = Field(0.1, ge=0, le=1000, description="Weight of the masks' mean in the loss; more: fewer stay.")
    learning_rate: float | None = Field(None, gt=0, le=1, description="Peak, of the thresholds; null: as the model's.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Put the rules that are given, or what is to be learnt."""
        layers, depth = layers_with_heads(model, NAME), len(model.blueprint.layers)
        if self.thresholds is not None:
            given = self.thresholds
            return self._ruled(model, ctx, {i: given[min(i, len(given) - 1)] for i in layers})
        ctx.state[STATE] = Thresholds(layers, depth, self.last, self.learning_rate)
        return model

    def objectives(self, ctx: Context) -> list[Objective]:
        """The mean of the masks, where thresholds are learnt."""
        learnt = self.thresholds is None and self.penalty
        return [Penalty("tokens", _thresholds(ctx), weight=self.penalty)] if learnt else []

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """The soft rules."""
        if self.thresholds is not None:
            return []
        learnt = _thresholds(ctx)
        return [Fading({i: Soft(learnt, row, self.temperature) for row, i in enumerate(learnt.layers)})]

    def finish(self, model: Model, ctx: Context) -> Model:
        """Fix the thresholds that were learnt."""
        if self.thresholds is not None:
            return model
        learnt = _thresholds(ctx)
        values = learnt.values().detach().double().clamp(0, 1).tolist()
        return self._ruled(model, ctx, dict(zip(learnt.layers, values, strict=True)))

    def _ruled(self, model: Model, ctx: Context, values: Mapping[int, float]) -> Model:
        ctx.say(f"{NAME} drops below {'/'.join(f'{value:.2g}' for value in values.values())}")
        ctx.notes["tokens"] = {str(i): value for i, value in values.items()}
        rules = {i: ThresholdSpec(kind="threshold", threshold=value) for i, value in values.items() if value > 0}
        return with_rules(model, rules, NAME)

    @classmethod
    def noop(cls) -> Ltp:
        """Thresholds of 0 reproduce the model."""
        return cls(thresholds=(0.0,))


def _thresholds(ctx: Context) -> Thresholds:
    learnt = ctx.state[STATE]
    assert isinstance(learnt, Thresholds)
    return learnt
