"""Coarse and fine gates, learnt together: whole sub-units, heads, neurons and hidden dimensions, to a given size.

Source: CoFi, Xia, Zhong & Chen 2022, arXiv:2204.00408, section 3, with the authors' code.  Hard-concrete gates
(:mod:`bertpress.methods.hard_concrete`) on every attention and every feed-forward network as a whole, on every head and
every neuron, and on every hidden dimension in all layers at once.  The expected size is a sum over heads and neurons of
products of ``P(z > 0)``: their own, that of their sub-unit, those of the hidden dimensions.  With the expected sparsity
s and a target t that rises linearly, the gates minimise ``a (s - t) + b (s - t)^2``, while a and b climb it.  In the
end gates are no longer drawn: of each dimension as many are closed as are expected to be, the smallest.  Four of the
teacher's layers look for the nearest of the student's (:mod:`bertpress.methods.alignment`); ``distill/logits`` brings
the other term of the paper.
Departs from it: the target is kept, not only approached: before units are counted in the end, all logits are moved by
one number.  A sub-unit that is gone leaves its output bias and its norm; a layer counts as gone where nothing else is
left of it.  Biases of heads and neurons count too.

While training, norms average over the hidden dimensions that are open, as they do once the others are cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import TrainerCallback

from bertpress.encoder.blueprint import Blueprint, LayerSpec
from bertpress.encoder.transforms import put
from bertpress.errors import RecipeError
from bertpress.methods.alignment import NearestLayers, linear_map, quarters
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.dimensions import (
    Scaled,
    check_hidden,
    hidden_writers,
    kept_norm,
    rounded_count,
    shrink,
    sites,
    size_of,
    sizes,
    told,
    unit_costs,
    unit_notes,
)
from bertpress.methods.hard_concrete import drawn, open_probability, settled
from bertpress.methods.layer_maps import check_tokens
from bertpress.training.objectives import Objective, Penalty
from bertpress.training.optimizer import Optimization
from bertpress.training.schedules import linear

BOUND = math.log(100)  # of the logits, either way; from the authors' code, as is how they start
START, SPREAD = math.log(99), 0.01


def units_of(layer: LayerSpec, place: int) -> list[str]:
    """Dimensions of the heads and neurons that a layer computes with, its own or another's."""
    attention = place if layer.attention_from is None else layer.attention_from
    ffn = place if layer.ffn_from is None else layer.ffn_from
    return [f"{attention}/heads", *(f"{ffn}/ffn{j}" for j in range(len(layer.ffn)))]


def coarse(name: str) -> str:
    """Name of the gate on all heads, or all neurons, of a sub-unit."""
    return f"{name}/whole"


class Multipliers(nn.Module):
    """Weights of the distance to the target and of its square; they climb.

    Args:
        learning_rate: of both.
    """

    def __init__(self, learning_rate: float) -> None:
        super().__init__()
        self.linear, self.quadratic = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        self.optimization = Optimization(learning_rate=learning_rate, weight_decay=0.0, ascend=True, scheduled=False)

    def forward(self, distance: Tensor) -> Tensor:
        """What the distance costs, a scalar."""
        return self.linear * distance + self.quadratic * distance.square()


class Gates(nn.Module):
    """The logits of all gates, the gates as they are now, and the size that they promise.

    Args:
        blueprint: of the model.
        hidden: whether there are gates on hidden dimensions.
        multiple: neurons and hidden size are rounded to it, once settled.
        learning_rate: of logits and multipliers.
        random: for the noise on the logits at the start, without which all would be equal.

    Attributes:
        target: sparsity that is asked for now; None: the gates are not at work, and open.
        now: gates by name, as the last pass found them.
    """

    shift: Tensor

    def __init__(
        self, blueprint: Blueprint, *, hidden: bool, multiple: int, learning_rate: float, random: torch.Generator
    ) -> None:
        super().__init__()
        self.costs, self.hidden_size, self.multiple = unit_costs(blueprint), blueprint.hidden_size, multiple
        shapes = sizes(blueprint)
        self.wholes = {name: shapes[name][0] for name in (*self.costs, *(["hidden"] if hidden else []))}
        counts = self.wholes | {coarse(name): 1 for name in self.costs}
        noise = {name: torch.randn(count, generator=random) for name, count in counts.items()}
        self.logits = nn.ParameterDict({name: START + SPREAD * value for name, value in noise.items()})
        self.optimization = Optimization(learning_rate=learning_rate, weight_decay=0.0, scheduled=False)
        self.multipliers = Multipliers(learning_rate)
        self.register_buffer("shift", torch.zeros((), dtype=torch.float64))
        self.layer_units = [
            [name for name in units_of(layer, i) if name in self.costs] for i, layer in enumerate(blueprint.layers)
        ]
        self.target: float | None = None
        self.now = {name: torch.ones(count) for name, count in counts.items()}

    def begin(self, model: nn.Module, _: Any) -> None:
        """Before a pass of the model: draw the gates, or settle them where it does not train."""
        if self.target is None:
            self.now = {name: torch.ones_like(logits) for name, logits in self.logits.items()}
        elif model.training:
            self.now = {name: drawn(logits, torch.rand_like(logits)) for name, logits in self.logits.items()}
        else:
            self.now = self.masks()

    def factor(self, name: str) -> Tensor:
        """What multiplies the units of a dimension now: their own gates times that of their sub-unit."""
        return self.now[name] if name == "hidden" else self.now[name] * self.now[coarse(name)]

    def normed(self, norm: nn.LayerNorm, args: tuple[Tensor], out: Tensor) -> Tensor | None:
        """Behind a norm of hidden states: what it gives where dimensions are closed."""
        kept = self.now["hidden"] != 0
        return None if bool(kept.all()) else kept_norm(args[0], kept, norm)

    def layers(self) -> list[bool]:
        """Whether anything of each layer is left but norms and biases."""
        return [any(bool(self.now[coarse(name)]) for name in names) for names in self.layer_units]

    def sparsity(self, gates: Mapping[str, Any]) -> Any:
        """Share of the parameters of heads and neurons that is gone where so many gates of each name are open."""
        units = {name: gates[name] * gates[coarse(name)] for name in self.costs}
        whole = size_of(self.costs, self.wholes, self.hidden_size)
        return 1 - size_of(self.costs, units, gates.get("hidden", self.hidden_size)) / whole

    def expected(self) -> Tensor:
        """The sparsity that gates which are drawn promise, a scalar."""
        found: Tensor = self.sparsity({name: open_probability(logits).sum() for name, logits in self.logits.items()})
        return found

    def forward(self) -> Tensor:
        """What the distance of the expected sparsity to the target costs, a scalar; nothing before there is one."""
        if self.target is None:
            return torch.zeros(())
        cost: Tensor = self.multipliers(self.expected() - self.target)
        return cost

    @torch.no_grad()
    def counts(self, shift: float) -> dict[str, int]:
        """How many gates of each name are open once settled, with ``shift`` added to all logits."""
        found = {}
        for name, logits in self.logits.items():
            left, whole = round(float(open_probability(logits + shift).sum())), len(logits)
            found[name] = rounded_count(name, left, whole, self.multiple) if name in self.wholes else left
        return found

    @torch.no_grad()
    def masks(self) -> dict[str, Tensor]:
        """Settled gates by name."""
        counts = self.counts(float(self.shift))
        return {name: settled(logits.detach(), counts[name]) for name, logits in self.logits.items()}

    def settle(self, sparsity: float) -> None:
        """Move all logits so that as many units stay as the sparsity allows, and settle the gates for good."""
        low, high = -4 * BOUND, 4 * BOUND  # all closed, all open
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if self.sparsity(self.counts(middle)) >= sparsity else (low, middle)
        self.shift.fill_(low)
        self.target, self.now = sparsity, self.masks()


class Target(TrainerCallback):  # type: ignore[misc]
    """Raises the sparsity that is asked for, keeps the logits within bounds, and settles the gates at the end."""

    def __init__(self, gates: Gates, method: Cofi) -> None:
        self.gates, self.method = gates, method

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The target of this step."""
        self.gates.target = self.method.target(state.global_step, state.max_steps)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After each update."""
        for logits in self.gates.logits.values():
            logits.data.clamp_(-BOUND, BOUND)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The size that was asked for, whichever step the weights are from."""
        self.gates.settle(self.method.sparsity)


class Cofi(Method):
    """Learn which sub-units, heads, neurons and hidden dimensions go, by gates under a constraint on the size."""

    cite: ClassVar[str] = "Xia et al., 2022"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TEACHER, Need.TRAINING, Need.TOKENS})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.NARROW})

    sparsity: float = Field(0.6, ge=0, lt=1, description="Share of the parameters of heads and neurons that goes.")
    hidden: bool = Field(True, description="Gates on the hidden dimensions too.")
    begin: float = Field(0.05, ge=0, lt=1, description="Share of the steps before the gates are at work.")
    warmup: float = Field(0.1, ge=0, le=1, description="Share of the steps in which the target rises.")
    learning_rate: float = Field(0.01, gt=0, le=10, description="Of the gates' logits and of the multipliers.")
    multiple_of: int = Field(8, ge=1, le=1024, description="Hidden size and neurons are rounded to this.")
    layers: float = Field(0.9, ge=0, le=1000, description="Weight of the term that matches layers.")
    teacher_layers: tuple[int, ...] | None = Field(
        None, min_length=1, description="The teacher's layers that are matched, from 1; None: four, evenly spaced."
    )
    ordered: bool = Field(False, description="Match layers in their order; for tasks with few examples.")

    @model_validator(mode="after")
    def _rises(self) -> Cofi:
        if self.begin + self.warmup > 1:
            raise ValueError(f"warmup={self.warmup} must be at most 1 - begin={1 - self.begin:g}")
        return self

    def target(self, step: int, total: int) -> float | None:
        """Sparsity that is asked for at a step; None: nothing yet."""
        begin, end = self.begin * total, (self.begin + self.warmup) * total
        return None if step < begin else linear(step, initial=0.0, final=self.sparsity, begin=begin, end=end)

    def attach(self, model: Model, ctx: Context) -> Model:
        """Gates on every dimension, norms that know of them, and a linear map to the teacher.

        Raises:
            RecipeError: there is nothing to prune, hidden dimensions cannot be cut, or a teacher's layer is not there.
        """
        assert ctx.teacher is not None
        shape, depth = model.blueprint, len(ctx.teacher.blueprint.layers)
        check_tokens("prune/cofi", model, ctx.teacher)
        if self.hidden:
            check_hidden("prune/cofi", shape)
        if any(not 1 <= layer <= depth for layer in self.teacher_layers or ()):
            raise RecipeError(f"prune/cofi: teacher_layers={list(self.teacher_layers or ())} must be in [1, {depth}]")
        gates = Gates(
            shape,
            hidden=self.hidden,
            multiple=self.multiple_of,
            learning_rate=self.learning_rate,
            random=ctx.generator(),
        )
        if not gates.costs:
            raise RecipeError("prune/cofi: the model has neither heads nor neurons to prune")
        for site in sites(shape):
            if site.dimension in gates.wholes:
                put(model, site.weight, Scaled(partial(gates.factor, site.dimension), site))
        for module in {name.rpartition(".")[0] for name in hidden_writers(shape) if self.hidden}:
            if isinstance(norm := model.get_submodule(module), nn.LayerNorm):
                norm.register_forward_hook(gates.normed)
        model.register_forward_pre_hook(gates.begin)
        ctx.state["cofi"], ctx.state["cofi_map"] = gates, linear_map(model, ctx)
        return model

    def objectives(self, ctx: Context) -> list[Objective]:
        """The constraint, and the distance of the layers; of weight 0 it is left out."""
        assert ctx.teacher is not None
        gates, projection = self._gates(ctx), ctx.state["cofi_map"]
        assert isinstance(projection, nn.Linear)
        terms: list[Objective] = [Penalty("constraint", gates)]
        if self.layers:
            chosen = self.teacher_layers or quarters(len(ctx.teacher.blueprint.layers))
            terms.append(NearestLayers(chosen, projection, gates.layers, self.ordered, self.layers))
        return terms

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """The rising target."""
        return [Target(self._gates(ctx), self)]

    def finish(self, model: Model, ctx: Context) -> Model:
        """Cut what is closed; the other gates are in the weights already."""
        gates = self._gates(ctx)
        kept = {name: gates.factor(name).nonzero().flatten().cpu() for name in gates.wholes}
        cut = shrink(model, kept)
        ctx.notes |= unit_notes({name: gates.factor(name).detach().cpu() for name in gates.wholes}, kept)
        ctx.say(f"prune/cofi: {told(cut.blueprint)}")
        return cut

    def _gates(self, ctx: Context) -> Gates:
        gates = ctx.state["cofi"]
        assert isinstance(gates, Gates)
        return gates
