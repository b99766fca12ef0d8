"""Drop whole layers before fine-tuning.

Source: Sajjad et al. 2020, "Poor Man's BERT", arXiv:2004.03844, section 3; ``greedy``: Peer et al. 2021, "Greedy-layer
pruning", arXiv:2105.14839.  Departs from them: ``contribution`` may also be told how many layers to drop, not only a
threshold; ``greedy`` judges a layer by how far the answers move without it, before any training, where the paper
fine-tunes a model for each.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bertpress.encoder.depth import Strategy, kept_layers
from bertpress.encoder.surgery import keep_layers
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.matching import TeacherLoss
from bertpress.training.objectives import Step
from bertpress.training.teacher import model_inputs


def layer_similarity(hidden: tuple[Tensor, ...], mask: Tensor) -> Tensor:
    """Mean cosine between each layer's input and output vectors over the tokens that are no pads.

    Args:
        hidden: depth + 1 tensors (batch, tokens, hidden), the embeddings' output first.
        mask: (batch, tokens), 1 for tokens.

    Returns:
        (depth,), summed over tokens; divide by the number of tokens.
    """
    kept = mask.bool()
    cosines = [torch.cosine_similarity(before[kept], after[kept], dim=-1) for before, after in pairwise(hidden)]
    return torch.stack([cosine.double().sum() for cosine in cosines])


def least_contributing(similarity: Tensor, *, drop: int | None, threshold: float) -> list[int]:
    """Layers to drop: the ``drop`` most similar ones, or all above the threshold."""
    order = torch.argsort(similarity, descending=True, stable=True).tolist()
    return sorted(order[:drop]) if drop is not None else [i for i in sorted(order) if similarity[i] > threshold]


def greedily(depth: int, drop: int, change: Callable[[list[int]], float]) -> list[int]:
    """Layers that stay when one goes at a time, each time the one without which answers change least.

    Args:
        depth: number of layers there are.
        drop: number of layers that go, below ``depth``.
        change: of the answers, where these layers alone are left.
    """
    kept = list(range(depth))
    for _ in range(drop):
        left = [[other for other in kept if other != layer] for layer in kept]
        kept = min(left, key=change)
    return kept


class Layers(Method):
    """Drop whole layers: the top, bottom, middle, alternate or least contributing ones, or those least missed."""

    cite: ClassVar[str] = "Sajjad et al., 2020; Peer et al., 2021"
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.SHALLOW})
    requires: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    drop: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] | None = Field(
        0.5, description="How many layers go: a number, or a share of the depth; null: by the threshold."
    )
    strategy: Literal[Strategy, "contribution", "greedy"] = Field("top", description="Which layers go.")
    threshold: float = Field(
        0.95,
        gt=0,
        le=1,
        description="Contribution without a number: layers whose input and output are more alike go.",
    )
    examples: int = Field(128, ge=1, le=100_000, description="contribution, greedy: training examples that they read.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Cut, before training."""
        depth = len(model.blueprint.layers)
        drop = round(self.drop * depth) if isinstance(self.drop, float) else self.drop
        try:
            if self.strategy == "contribution":
                gone = set(least_contributing(self._similarity(model, ctx), drop=drop, threshold=self.threshold))
                kept = [i for i in range(depth) if i not in gone]
            elif drop is None:
                raise ValueError("drop=null needs strategy: contribution")
            elif self.strategy == "greedy":
                kept_layers("top", depth, drop)  # refuses a number that is out of bounds
                kept = greedily(depth, drop, self._change(model, ctx))
            else:
                kept = kept_layers(self.strategy, depth, drop)
            cut = keep_layers(model, kept)
        except ValueError as fault:
            raise RecipeError(f"prune/layers: {fault}") from None
        ctx.say(f"prune/layers keeps {kept} of {depth}")
        return cut

    def _similarity(self, model: Model, ctx: Context) -> Tensor:
        total, tokens = torch.zeros(len(model.blueprint.layers), dtype=torch.float64), 0
        with torch.no_grad():
            for batch in ctx.batches(self.examples):
                hidden = model(**model_inputs(batch), capture=frozenset({"hidden_states"})).captured["hidden_states"]
                total += layer_similarity(hidden, batch["attention_mask"]).cpu()
                tokens += int(batch["attention_mask"].sum())
        return total / tokens

    def _change(self, model: Model, ctx: Context) -> Callable[[list[int]], float]:
        """Kullback-Leibler divergence from the whole model's answers, where these have classes; else squared error."""
        head = model.blueprint.head
        if head is None or head.kind == "masked_lm":
            raise ValueError("strategy=greedy needs a model with the head of a task")
        loss, batches = TeacherLoss("kl", 1.0, head.kind), ctx.batches(self.examples)

        @torch.no_grad()
        def answers(of: Model) -> list[Any]:
            return [of(**model_inputs(batch)) for batch in batches]

        whole = answers(model.eval())

        def change(kept: list[int]) -> float:
            found = zip(batches, answers(keep_layers(model, kept).eval()), whole, strict=True)
            steps = [Step(batch, answer, before, ctx.task, nn.ModuleDict()) for batch, answer, before in found]
            return sum(float(loss(step)) * len(step.batch["input_ids"]) for step in steps)

        return change

    @classmethod
    def noop(cls) -> Layers:
        """Dropping no layer reproduces the model."""
        return cls(drop=0)
