"""What methods that put single weights to zero share: which weights, which of them stay, and how fast the others go.

The schedule is that of Zhu & Gupta 2017, arXiv:1710.01878, section 3: fast first, when there is much to choose from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor
from transformers import TrainerCallback

from bertpress.encoder.transforms import put
from bertpress.methods.base import Context, Method, Model, Trait
from bertpress.methods.masks import Mask, largest_of_all, largest_of_each
from bertpress.methods.weights import matrices, some, tables
from bertpress.training.schedules import cubic

Scope = Literal["uniform", "global"]


class Sparsifier(Method):
    """Base of the methods that put single weights to zero; biases and norms never are."""

    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.SPARSE})

    pooler: bool = Field(True, description="Prune the dense layer of the head too, such as BERT's pooler.")
    tables: tuple[Literal["word", "position", "segment"], ...] = Field(
        (), description="Embedding tables that are pruned too: word, position, segment."
    )

    def weights(self, model: Model) -> list[str]:
        """Names of the weights that are pruned; the classifier never is.

        Raises:
            RecipeError: there is none.
        """
        named = tables(model)
        return some(matrices(model, head=self.pooler) + [named[table] for table in self.tables if table in named])


class Gradual(Sparsifier):
    """Base of those that prune more and more while training."""

    begin: float = Field(0.1, ge=0, le=1, description="Share of the training steps before the first weight goes.")
    end: float = Field(0.7, ge=0, le=1, description="Share of the steps after which no more go; as begin: all at once.")

    @model_validator(mode="after")
    def _ordered(self) -> Gradual:
        if self.begin > self.end:
            raise ValueError(f"begin={self.begin:g} must be at most end={self.end:g}")
        return self

    def at(self, step: int, steps: int, *, initial: float, final: float) -> float:
        """The value of step ``step`` of ``steps`` of what goes from ``initial`` to ``final``."""
        return cubic(step, initial=initial, final=final, begin=self.begin * steps, end=self.end * steps)


class Masking(Gradual):
    """Base of those that choose masks: while training by the schedule, and once where a stage does not train."""

    keep: float = Field(0.5, gt=0, le=1, description="Share of the weights that stays.")
    scope: Scope = Field("uniform", description="The same share of every matrix, or one ranking over all of them.")
    floor: float = Field(0.01, ge=0, le=1, description="global: share of each matrix that stays in any case.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Masks that keep everything but what is zero already."""
        for name in self.weights(model):
            put(model, name, Mask(model.get_parameter(name).detach() != 0))
        return model

    @classmethod
    def noop(cls) -> Any:
        """Keeping all weights reproduces the model."""
        return cls(keep=1.0)


class Thinning(TrainerCallback):  # type: ignore[misc]
    """Prunes to a smaller share every few steps, and never again once the final one is reached.

    Args:
        method: has the schedule.
        keep: the final share.
        every: steps.
        prune: makes a model keep a share of its weights.
    """

    def __init__(self, method: Gradual, keep: float, every: int, prune: Callable[[Model, float], None]) -> None:
        self.method, self.keep, self.every, self.prune = method, keep, every, prune
        self.share = 1.0

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Model | None = None, **_: Any) -> None:
        """Prune, where it is time to."""
        assert model is not None
        share = self.method.at(state.global_step, state.max_steps, initial=1.0, final=self.keep)
        if share < self.share and (state.global_step % self.every == 0 or share == self.keep):
            self.prune(model, share)
            self.share = share

    def on_train_end(self, args: Any, state: Any, control: Any, model: Model | None = None, **_: Any) -> None:
        """The final share, where the steps were too few to come to it."""
        assert model is not None
        if self.share > self.keep:
            self.prune(model, self.keep)
            self.share = self.keep

    def state_dict(self) -> dict[str, float]:
        """The share that is kept now."""
        return {"share": self.share}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from there."""
        self.share = state["share"]


def best(scores: Mapping[str, Tensor], keep: float, scope: Scope, floor: float = 0.0) -> dict[str, Tensor]:
    """Masks of the largest scores: the same share of each weight, or all ranked together with a floor for each."""
    return largest_of_each(scores, keep) if scope == "uniform" else largest_of_all(scores, keep, floor)


def largest_weights(
    model: Model, names: Iterable[str], keep: float, scope: Scope = "global", floor: float = 0.0
) -> dict[str, Tensor]:
    """Masks of the weights of largest magnitude; what is zero is not kept, even if too little is left."""
    sizes = {name: model.get_parameter(name).detach().abs() for name in names}
    return {name: kept & (sizes[name] > 0) for name, kept in best(sizes, keep, scope, floor).items()}


def cut(model: Model, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a model by name, with zeros where they are not kept."""
    return {name: model.get_parameter(name).detach().masked_fill(~mask, 0.0) for name, mask in kept.items()}


def told(kept: Iterable[Tensor]) -> str:
    """How many weights masks keep, in words."""
    masks = list(kept)
    return f"{sum(int(mask.sum()) for mask in masks):,} of {sum(mask.numel() for mask in masks):,} weights"
