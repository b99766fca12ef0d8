"""Learn linear maps that squeeze the teacher's matrices into those of a smaller student.

Source: Chumachenko et al. 2020, "Weight squeezing: reparameterization for knowledge transfer and model compression",
arXiv:2010.06993.  A student's weight is ``L W R``, where W is the teacher's, frozen, and L and R are learnt on the
task; gated, it is ``s(g) * V + (1 - s(g)) * L W R``, s the sigmoid, with weights V of its own and gates g.  Vectors and
tables are mapped on one side.  After training the products are the student; maps, gates and W are gone.
Departs from it: maps begin as a truncated identity or as random orthogonal ones, the same for all that touch the same
axis, so that the first student is a part of the teacher; V, which the paper takes from a smaller pre-trained model,
begins as the product and g at 0, half of each.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bertpress.encoder.axes import hidden_axes, hidden_obstacle
from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.depth import Strategy, kept_layers
from bertpress.encoder.transforms import put
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.selection import Size, count_of
from bertpress.methods.students import fresh, smaller
from bertpress.methods.transform import WeightTransform
from bertpress.training.optimizer import Optimization

NAME = "student/weight_squeezing"
Start = Literal["identity", "orthogonal"]
HIDDEN = "hidden"


def squeezed(weight: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """``L W R``; a side without a map stays.

    Args:
        weight: (rows, columns) or (rows,), the teacher's.
        left: (fewer rows, rows).
        right: (columns, fewer columns).
    """
    weight = weight if left is None else left @ weight
    return weight if right is None else weight @ right


def gated(own: Tensor, mapped: Tensor, gate: Tensor) -> Tensor:
    """``s(g) * V + (1 - s(g)) * L W R``, all of one shape."""
    return torch.lerp(mapped, own, gate.sigmoid())


def first_map(small: int, large: int, start: Start, generator: torch.Generator) -> Tensor:
    """(small, large), of orthonormal rows, so that what is mapped keeps its scale.

    Args:
        small: size of the student's axis, at most ``large``.
        large: of the teacher's.
        start: ``identity`` takes the first of the teacher's, ``orthogonal`` random directions.
        generator: of those.
    """
    if start == "identity" or small == large:
        return torch.eye(small, large)
    return nn.init.orthogonal_(torch.empty(small, large), generator=generator)


def axes_of(blueprint: Blueprint, name: str, weight: Tensor) -> list[str | None]:
    """What each axis runs over: the hidden dimensions, a layer's queries, values or neurons; None: anything else.

    Weights that are multiplied by each other have the axis between them in common.
    """
    axes: list[str | None] = [None] * weight.dim()
    for axis in hidden_axes(blueprint, name, weight):
        axes[axis] = HIDDEN
    unit, _, part = name.rpartition(".")
    layer, _, role = unit.partition(".attention.")
    inner = {"query": "queries", "key": "queries", "value": "values", "output": "values"}.get(role)
    if inner is None:
        layer, _, role = unit.rpartition(".")
        inner = "neurons" if ".ffn." in name and role in ("inner", "outer") else None
    closes = role in ("output", "outer")
    if inner is not None and not (closes and part == "bias"):
        axes[-1 if closes else 0] = f"{layer}.{inner}"
    return axes


class Map(nn.Module):
    """A linear map of one axis; (student's size, teacher's size)."""

    def __init__(self, first: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(first)


class Squeezed(WeightTransform):
    """Gives the squeezed weight of the teacher, alone or mixed with the one that is trained below.

    Args:
        weight: the teacher's; frozen, and in no checkpoint.
        left: of its rows; may serve other weights too.
        right: of its columns, likewise.
        gate: whether the weight below takes part.
        learning_rate: of maps and gates; None: the run's.
    """

    weight: Tensor

    def __init__(
        self, weight: Tensor, left: Map | None, right: Map | None, *, gate: bool, learning_rate: float | None
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.left, self.right, self.gate = left, right, None
        if gate:
            self.gate = nn.Parameter(torch.zeros_like(self.product()))
        self.optimization = Optimization(learning_rate=learning_rate, weight_decay=0.0)

    def product(self) -> Tensor:
        """``L W R``, in float32 whatever the precision: it is a weight."""
        with torch.autocast(self.weight.device.type, enabled=False):
            left = None if self.left is None else self.left.weight
            return squeezed(self.weight, left, None if self.right is None else self.right.weight.t())

    def forward(self, own: Tensor) -> Tensor:
        """Same shape as ``own``."""
        mapped = self.product()
        return mapped if self.gate is None else gated(own, mapped, self.gate)


class WeightSqueezing(Method):
    """Build a smaller student whose weights are learnt linear maps of the teacher's, and keep their products."""

    cite: ClassVar[str] = "Chumachenko et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAINING})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.SHALLOW, Trait.NARROW})
    conflicts: ClassVar[frozenset[Trait]] = frozenset({Trait.INT8, Trait.SPARSE})

    layers: Size | None = Field(None, description="Layers: a number, a share of the teacher's, or null for all.")
    hidden_size: Size | None = Field(0.5, description="Hidden dimensions: a number, a share, or null for all.")
    heads: Size | None = Field(0.5, description="Heads in each layer: a number, a share, or null for all.")
    ffn: Size | None = Field(0.5, description="Neurons in each feed-forward network: a number, a share, or null.")
    which: Strategy = Field("groups", description="Which of the teacher's layers are squeezed.")
    multiple_of: int = Field(32, ge=1, le=1024, description="Shares of widths are rounded to what the hardware likes.")
    gated: bool = Field(False, description="Mix in weights of the student's own, by gates that are learnt too.")
    shared: bool = Field(
        False, description="One map for all weights that touch the same axis; false: maps of its own for each weight."
    )
    start: Start = Field("identity", description="Maps begin by taking the first of each axis, or at random.")
    map_learning_rate: float | None = Field(
        None, gt=0, le=10, description="Peak learning rate of maps and gates; null: that of the stage."
    )

    def attach(self, model: Model, ctx: Context) -> Model:
        """Build the student, and put the maps on its weights.

        Raises:
            RecipeError: the shape is impossible, or the teacher has layers that cannot be squeezed.
        """
        depth = len(model.blueprint.layers)
        try:
            kept = kept_layers(self.which, depth, depth - count_of(self.layers, depth, "layers"))
            student = fresh(self._shape(model.blueprint, len(kept)), model, ctx.seed)
        except ValueError as fault:
            raise RecipeError(f"{NAME}: {' '.join(str(fault).split())}") from None
        self._squeeze(student, model, kept, ctx.generator())
        own, whole = (each.total_parameters for each in (student.blueprint, model.blueprint))
        ctx.say(f"{NAME}: {len(kept)} of {depth} layers, {own:,} of {whole:,} parameters")
        return student

    def _shape(self, teacher: Blueprint, layers: int) -> Blueprint:
        if (reason := hidden_obstacle(teacher)) is not None:
            raise ValueError(reason)
        plain = teacher.relative is None and not any(layer.bottleneck for layer in teacher.layers)
        if not plain or not all(layer.attention.heads and layer.ffn[0] for layer in teacher.layers):
            raise ValueError("needs layers with heads and neurons, without relative positions and bottlenecks")
        return smaller(
            teacher, layers, hidden_size=self.hidden_size, heads=self.heads, ffn=self.ffn, multiple_of=self.multiple_of
        )

    def _squeeze(self, student: Model, model: Model, kept: list[int], generator: torch.Generator) -> None:
        theirs = dict(model.unique_weights())
        first: dict[str, Tensor] = {}
        maps: dict[str, Map] = {}

        def along(axis: str | None, small: int, large: int) -> Map | None:
            if axis is None:
                return None
            if axis not in first:
                first[axis] = first_map(small, large, self.start, generator)
                maps[axis] = Map(first[axis])
            return maps[axis] if self.shared else Map(first[axis].clone())

        for name, weight in list(student.unique_weights()):
            source = theirs[source_of(name, kept, model.blueprint)].detach()
            axes = axes_of(student.blueprint, name, source)
            sides = [along(axis, *sizes) for axis, *sizes in zip(axes, weight.shape, source.shape, strict=True)]
            if not any(sides):
                weight.data.copy_(source)
                continue
            left, right = (*sides, None)[:2]
            transform = Squeezed(source, left, right, gate=self.gated, learning_rate=self.map_learning_rate)
            weight.data.copy_(transform.product().detach())
            weight.requires_grad_(self.gated)
            put(student, name, transform)

    def finish(self, model: Model, ctx: Context) -> Model:
        """The products train on as weights of their own."""
        model.requires_grad_(True)
        return model

    @classmethod
    def noop(cls) -> WeightSqueezing:
        """All of the teacher under maps that begin as the identity."""
        return cls(hidden_size=None, heads=None, ffn=None)


def source_of(name: str, kept: list[int], teacher: Blueprint) -> str:
    """The teacher's weight that a student's weight is made of; layers that share have it where their owner is.

    Args:
        name: of the student's weight.
        kept: the teacher's layer for each of the student's.
        teacher: says who owns what.
    """
    parts = name.split(".")
    if parts[:2] != ["encoder", "layers"]:
        return name
    layer = kept[int(parts[2])]
    owner = getattr(teacher.layers[layer], f"{parts[3]}_from")
    return ".".join([*parts[:2], str(layer if owner is None else owner), *parts[3:]])
