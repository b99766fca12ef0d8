"""Learn the teacher's weights themselves, through projections that all layers and kinds of matrix share.

Source: Zhao et al. 2019, arXiv:1909.11687, section 3.2: ``down`` is the sum over all weights of
``|| U Theta_T V - Theta_S ||^2``, ``up`` that of ``|| Theta_T - U Theta_S V ||^2``; a vector is projected on one side.
A reconstruction: the paper leaves open how feed-forward widths are projected and what the sum weighs.
Departs from it: one U and one V for each pair of widths (hidden, inner), since those differ; a side that is as wide in
both models is left as it is.  A shallower student is aligned with evenly spaced layers of the teacher, the last
included.  Embedding tables and the head are not compared: in the paper the two have different vocabularies.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import TrainerCallback

from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need
from bertpress.training.objectives import Objective, Penalty

Direction = Literal["up", "down", "both"]
NAME, STATE = "distill/projection", "projection"
LAYERS = "encoder.layers."


def aligned_layer(layer: int, student: int, teacher: int) -> int:
    """The teacher's layer for one of the student's, both from 0: evenly spaced, last to last."""
    return (layer + 1) * teacher // student - 1


def projected(weight: Tensor, left: Tensor | None, right: Tensor | None = None) -> Tensor:
    """``U weight V``.

    Args:
        weight: (rows, columns) or (rows,).
        left: (new rows, rows); None: the identity.
        right: (columns, new columns); None: the identity.
    """
    weight = weight if left is None else left @ weight
    return weight if right is None else weight @ right


class Alignment(nn.Module):
    """The projections, which train beside the model, and the weights that they are for.

    Args:
        method: which way to project.
        pairs: names of the student's weights, each with the student's shape and the teacher's weight.
        generator: of the first projections, which are orthogonal.
    """

    def __init__(
        self, method: Projection, pairs: list[tuple[str, torch.Size, nn.Parameter]], generator: torch.Generator
    ) -> None:
        super().__init__()
        self.method, self.pairs = method, pairs
        self.compared: list[tuple[nn.Parameter, Tensor]] = []  # once a model is followed: student's, teacher's
        self.maps = nn.ParameterDict()
        for _, shape, weight in pairs:
            for source, target in self._ways(shape, weight.shape):
                for key, rows, columns in _maps(source, target):
                    if rows != columns and key not in self.maps:
                        self.maps[key] = nn.init.orthogonal_(torch.empty(rows, columns), generator=generator)

    def _ways(self, student: Any, teacher: Any) -> list[tuple[Any, Any]]:
        """From what to what is projected: tensors, or their shapes."""
        ways = {"up": [(student, teacher)], "down": [(teacher, student)]}
        return ways["up"] + ways["down"] if self.method.direction == "both" else ways[self.method.direction]

    def follow(self, model: Model) -> None:
        """Align this model's weights from now on.

        Raises:
            RecipeError: they have another shape than when the projections were made.
        """
        self.compared = []
        for name, shape, there in self.pairs:
            weight = model.get_parameter(name)
            if weight.shape != shape:
                raise RecipeError(f"{NAME}: must stand after the methods that cut the student")
            self.compared.append((weight, there.detach().to(weight.device)))

    def distance(self) -> Tensor:
        """Sum of the squared differences, a scalar."""
        squares = []
        for pair in self.compared:
            for source, target in self._ways(*pair):
                maps = [self.maps.get(key) for key, _, _ in _maps(source.shape, target.shape)]
                squares.append((projected(source, *maps) - target).square().sum())
        return torch.stack(squares).sum()


def _maps(source: torch.Size, target: torch.Size) -> list[tuple[str, int, int]]:
    """Name, rows and columns of the projections on the left and, for matrices, on the right."""
    found = [(f"left_{target[0]}_{source[0]}", target[0], source[0])]
    return found + [(f"right_{a}_{b}", a, b) for a, b in zip(source[1:], target[1:], strict=True)]


class Follower(TrainerCallback):  # type: ignore[misc]
    """Shows the alignment the model that is trained, which a later method of the stage may have built anew."""

    def __init__(self, alignment: Alignment) -> None:
        self.alignment = alignment

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Model | None = None, **_: Any) -> None:
        """Follow it."""
        assert model is not None
        self.alignment.follow(model)


class Projection(Method):
    """Pull the student's weights towards the teacher's, through projections shared by all layers."""

    cite: ClassVar[str] = "Zhao et al., 2019"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TEACHER, Need.TRAINING})

    weight: float = Field(1e-5, gt=0, le=1000, description="Of the sum of squares; the paper's epsilon.")
    direction: Direction = Field("up", description="Project the student up, the teacher down, or each to the other.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Make the projections."""
        assert ctx.teacher is not None
        depths = [len(side.blueprint.layers) for side in (model, ctx.teacher)]
        if depths[0] > depths[1]:
            raise RecipeError(f"{NAME}: the student's {depths[0]} layers must be at most the teacher's {depths[1]}")
        weights = dict(ctx.teacher.unique_weights())
        pairs = []
        for name, weight in model.unique_weights():
            if name.startswith(LAYERS):
                layer, _, rest = name.removeprefix(LAYERS).partition(".")
                there = weights.get(f"{LAYERS}{aligned_layer(int(layer), *depths)}.{rest}")
                if there is not None:  # layers that share their weights own none
                    pairs.append((name, weight.shape, there))
        if not pairs:
            raise RecipeError(f"{NAME}: the layers of student and teacher must have weights of the same names")
        ctx.state[STATE] = Alignment(self, pairs, ctx.generator())
        return model

    def objectives(self, ctx: Context) -> list[Objective]:
        """The distance of the weights."""
        return [Penalty("projection", self._alignment(ctx).distance, weight=self.weight)]

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """Find the model."""
        return [Follower(self._alignment(ctx))]

    def _alignment(self, ctx: Context) -> Alignment:
        alignment = ctx.state[STATE]
        assert isinstance(alignment, Alignment)
        return alignment
