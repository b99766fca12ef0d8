"""A small convolutional network for one task, found by a differentiable search.

Source: AdaBERT, Chen et al. 2020, arXiv:2001.04246, section 3: the same cell, a graph of a few operations, is stacked
up to K times.  One operation of ten for each edge, and the number of cells, are drawn by Gumbel-softmax, one-hot in the
forward pass and soft in the gradient, at a temperature that falls.  The loss is (1 - gamma) CE + gamma KD + beta L_E,
where L_E = K/K_max times the mean over the edges of their normalised size and arithmetic.  Weights and choices are
updated in turn; the likeliest of each choice is the student, which a later stage trains on.
Departs from it: the terms of labels and teacher are those of the stage, so with ``distill/logits`` of ``alpha`` gamma
beta is the paper's, and beside a task's loss of weight 1 (``distill/probes``) it is the paper's beta / (1 - gamma).
Cells add what enters them and end with a LayerNorm, which does not depend on the batch; a cell of zeros thus hands the
text on, and there is at least one.  A cell above the drawn depth learns what it would change there.  The head reads the
mean token of the last cell, through a dense layer with tanh, not a mix of all cells.  Pools and skips cost nothing, as
no product of matrices is in them.  Dilated convolutions are such, where the authors' code has a morphological dilation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from transformers import TrainerCallback

from bertpress.encoder import costs
from bertpress.encoder.blueprint import NO_HEADS, Blueprint, HeadSpec, LayerSpec
from bertpress.encoder.mixer_specs import OPERATIONS, CellSpec, Operation
from bertpress.encoder.mixers import Cell, Edge
from bertpress.encoder.surgery import rebuild
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Model, Need
from bertpress.methods.students import Student, Width
from bertpress.training import schedules
from bertpress.training.objectives import Objective, Penalty
from bertpress.training.optimizer import Optimization

NAME, STATE = "student/adabert", "architecture"
MOST_CELLS = 8


def one_hot(scores: Tensor) -> Tensor:
    """1 at the largest of the last axis, the first of equals, and 0 elsewhere."""
    return F.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores.dtype)


def straight_through(scores: Tensor, temperature: Tensor) -> Tensor:
    """:func:`one_hot`, with the gradient of ``softmax(scores / temperature)``."""
    soft = (scores / temperature).softmax(-1)
    return one_hot(soft) + (soft - soft.detach())


def gumbel(like: Tensor) -> Tensor:
    """Noise of the standard Gumbel distribution, by torch's global generator."""
    return -torch.empty_like(like).exponential_().log()


def operation_costs(hidden: int) -> Tensor:
    """(operations,): the mean of size and arithmetic of an edge, each divided by that of the largest."""
    sizes, macs = (
        torch.tensor([costs.operation(each, hidden, bias=bias) for each in OPERATIONS]) for bias in (True, False)
    )
    return (sizes / sizes.max() + macs / macs.max()) / 2


class Gates(NamedTuple):
    """What is chosen, as one-hot vectors: (edges, operations) and (cells,), of which the first stands for one cell."""

    edges: Tensor
    depth: Tensor


def efficiency(gates: Gates, cost: Tensor) -> Tensor:
    """K/K_max times the mean cost of the edges, a scalar in [0, 1].

    Args:
        gates: what is chosen.
        cost: (operations,), of each in [0, 1].
    """
    cells = torch.arange(1, len(gates.depth) + 1, device=gates.depth.device)
    return (gates.depth * cells).sum() / len(cells) * (gates.edges * cost.to(gates.edges)).sum(-1).mean()


class Architecture(nn.Module):
    """Scores of all choices, the same for every cell, and the noise and temperature of this step.

    Args:
        nodes: of a cell.
        depth: the largest number of cells.
        learning_rate: of the scores.
    """

    edge_noise: Tensor
    depth_noise: Tensor
    temperature: Tensor

    def __init__(self, nodes: int, depth: int, learning_rate: float) -> None:
        super().__init__()
        self.nodes = nodes
        self.places = [(node, state) for node in range(nodes) for state in range(node + 2)]
        self.edges = nn.Parameter(torch.zeros(len(self.places), len(OPERATIONS)))
        self.depth = nn.Parameter(torch.zeros(depth))
        self.optimization = Optimization(learning_rate=learning_rate, weight_decay=0.0)
        self.register_buffer("edge_noise", torch.zeros_like(self.edges))
        self.register_buffer("depth_noise", torch.zeros_like(self.depth))
        self.register_buffer("temperature", torch.ones(()))

    def draw(self, temperature: float) -> None:
        """New noise, which holds until the next draw."""
        self.edge_noise.copy_(gumbel(self.edge_noise))
        self.depth_noise.copy_(gumbel(self.depth_noise))
        self.temperature.fill_(temperature)

    def gates(self, drawn: bool) -> Gates:
        """What the noise of this step chooses, with gradients; or the likeliest."""
        if not drawn:
            return Gates(one_hot(self.edges.detach()), one_hot(self.depth.detach()))
        return Gates(
            straight_through(self.edges + self.edge_noise, self.temperature),
            straight_through(self.depth + self.depth_noise, self.temperature),
        )

    def chosen(self) -> tuple[tuple[tuple[Operation, ...], ...], int]:
        """The likeliest operations, node by node, and the likeliest number of cells."""
        best = (OPERATIONS[i] for i in self.edges.argmax(-1).tolist())
        return tuple(tuple(islice(best, node + 2)) for node in range(self.nodes)), int(self.depth.argmax()) + 1


class SuperCell(Cell):
    """A cell in which every edge holds all operations; gates choose one, and whether the cell is there.

    What a gate of zero leaves out is computed only where the gate wants a gradient.

    Args:
        blueprint: of the student.
        layer: this one's shape; its cell has no edges.
        number: of this cell, from 0.
        architecture: gives the gates; its scores are not this cell's.
    """

    def __init__(self, blueprint: Blueprint, layer: LayerSpec, number: int, architecture: Architecture) -> None:
        assert isinstance(layer.mixer, CellSpec)
        super().__init__(layer.mixer, blueprint, layer.activation)
        self.number, self.places, self.gates = number, architecture.places, architecture.gates
        self.choices = nn.ModuleDict({
            f"{node}_{state}": nn.ModuleDict({
                operation: Edge(operation, blueprint.hidden_size, layer.activation)
                for operation in OPERATIONS
                if operation != "zero"
            })
            for node, state in self.places
        })  # fmt: skip

    def along(self, node: int, state: int, x: Tensor) -> Tensor | None:
        """What a node gets of a state, (batch, tokens, hidden); None where there is no edge."""
        gate = self.gates(self.training).edges[self.places.index((node, state))]
        edges = self.choices[f"{node}_{state}"]
        assert isinstance(edges, nn.ModuleDict)
        if gate.requires_grad:
            shares = dict(zip(OPERATIONS, gate, strict=True))
            return torch.stack([shares[name] * edge(x) for name, edge in edges.items()]).sum(0)
        operation = OPERATIONS[int(gate.argmax())]
        return edges[operation](x) if operation in edges else None

    def forward(self, x: Tensor, mask: Tensor | None, before: Tensor | None = None) -> Tensor:
        """(batch, tokens, hidden) to the same shape; ``x`` where fewer cells are chosen."""
        there = self.gates(self.training).depth[self.number :].sum()
        if there.requires_grad:
            return (1 - there) * x + there * super().forward(x, mask, before)
        return super().forward(x, mask, before) if there else x

    def derived(self, edges: Sequence[Sequence[Operation]]) -> dict[str, Tensor]:
        """The weights of a cell with these operations alone."""
        state = self.state_dict()
        kept = {name: tensor for name, tensor in state.items() if not name.startswith("choices.")}
        for node, at in self.places:
            inside = f"choices.{node}_{at}.{edges[node][at]}."
            for name in (name for name in state if name.startswith(inside)):
                kept[f"edges.{node}_{at}.{name.removeprefix(inside)}"] = state[name]
        return kept


def derived(model: Model, edges: tuple[tuple[Operation, ...], ...], depth: int) -> Model:
    """The network of these operations and so many cells, with the super-net's weights."""
    whole = model.state_dict()
    state = {name: tensor for name, tensor in whole.items() if not name.startswith("encoder.layers.")}
    for i, layer in enumerate(list(model.encoder.layers)[:depth]):
        assert isinstance(layer.mixer, SuperCell)
        state |= {f"encoder.layers.{i}.mixer.{name}": tensor for name, tensor in layer.mixer.derived(edges).items()}
    blank = model.blueprint.layers[0]
    assert isinstance(blank.mixer, CellSpec)
    layer_spec = blank.model_copy(update={"mixer": blank.mixer.model_copy(update={"edges": edges})})
    return rebuild(model, model.blueprint.with_layers((layer_spec,) * depth), state)


class Turns(TrainerCallback):  # type: ignore[misc]
    """Draws at each step, and has the weights and the choices learn in turn: the weights at even steps."""

    def __init__(self, method: Adabert, architecture: Architecture) -> None:
        self.method, self.architecture = method, architecture
        self.weights: list[nn.Parameter] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Model | None = None, **_: Any) -> None:
        """Find the weights that learn.

        Raises:
            RecipeError: another method of the stage has built the model anew.
        """
        assert model is not None
        if not all(isinstance(getattr(layer, "mixer", None), SuperCell) for layer in model.encoder.layers):
            raise RecipeError(f"{NAME}: another method of its stage builds the model anew; give that a later stage")
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The draw of this step, and whose turn it is."""
        self._learn(weights=state.global_step % 2 == 0, choices=state.global_step % 2 == 1)
        self.architecture.draw(self.method.temperature_at(state.global_step, state.max_steps))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """All may learn again."""
        self._learn(weights=True, choices=True)

    def _learn(self, *, weights: bool, choices: bool) -> None:
        for weight in self.weights:
            weight.requires_grad_(weights)
        self.architecture.requires_grad_(choices)


class Adabert(Student):
    """Search the operations and the depth of a convolutional student while it trains, and cut the likeliest out."""

    cite: ClassVar[str] = "Chen et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAINING})

    cells: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description=f"The largest depth; null: as many as the teacher has layers, at most {MOST_CELLS}."
    )
    nodes: int = Field(3, ge=1, le=8, description="Nodes of a cell.")
    hidden_size: Width = Field(128, description="Width of all cells.")
    embedding_size: Width | None = Field(
        None, description="Width of the word vectors; null: that of the cells, or the teacher's where that is less."
    )
    dense: Width = Field(128, description="Width of the dense layer (tanh) before the classifier of whole texts.")
    beta: float = Field(4.0, ge=0, le=10_000, description="Weight of the cost; more: fewer cells, cheaper edges.")
    temperature: float = Field(1.0, gt=0, le=100, description="Of the choices, at the beginning.")
    final_temperature: float = Field(0.2, gt=0, le=100, description="Of the choices, at the end.")
    architecture_learning_rate: float = Field(1e-4, gt=0, le=10, description="Peak learning rate of the choices.")

    def temperature_at(self, step: int, steps: int) -> float:
        """In equal steps from the first to the final one."""
        return schedules.linear(step, initial=self.temperature, final=self.final_temperature, begin=0, end=steps)

    def attach(self, model: Model, ctx: Context) -> Model:
        """Build the super-net."""
        depth = self.cells or min(MOST_CELLS, len(model.blueprint.layers))
        blank = CellSpec(kind="cell", edges=tuple(("zero",) * (node + 2) for node in range(self.nodes)))
        layer = LayerSpec(attention=NO_HEADS, mixer=blank, ffn=(), activation="relu")
        size = self.embedding_size or min(self.hidden_size, model.blueprint.embeddings.size)
        student = self.model_copy(update={"embedding_size": size}).build(
            model,
            replace(ctx, say=lambda _: None),  # its size is not known yet
            name=NAME,
            hidden=self.hidden_size,
            layers=(layer,) * depth,
            pooling="mean",
        )
        ctx.state[STATE] = architecture = Architecture(self.nodes, depth, self.architecture_learning_rate)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.seed)
            for i, each in enumerate(student.encoder.layers):
                each.mixer = SuperCell(student.blueprint, layer, i, architecture)
                each.mixer.apply(student._init_weights)
        return student

    def _head(self, teacher: Blueprint, ctx: Context, pooling: str) -> HeadSpec | None:
        head = super()._head(teacher, ctx, pooling)
        return head if head is None or head.kind != "sequence" else head.model_copy(update={"activation": "tanh"})

    def objectives(self, ctx: Context) -> list[Objective]:
        """What the choices cost, unless that weighs nothing."""
        architecture, cost = self._architecture(ctx), operation_costs(self.hidden_size)
        price = Penalty("efficiency", lambda: efficiency(architecture.gates(True), cost), self.beta)
        return [price] if self.beta else []

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """Draws and turns."""
        return [Turns(self, self._architecture(ctx))]

    def finish(self, model: Model, ctx: Context) -> Model:
        """Cut out the likeliest network."""
        architecture = self._architecture(ctx)
        edges, depth = architecture.chosen()
        student = derived(model, edges, depth)
        counted = Counter(operation for node in edges for operation in node)
        told = ", ".join(f"{counted[each]} {each}" for each in OPERATIONS if counted[each])
        ctx.say(f"{NAME}: {depth} of {len(architecture.depth)} cells of {told}")
        ctx.notes["adabert"] = {
            "edges": [list(node) for node in edges],
            "edge_probabilities": architecture.edges.softmax(-1).tolist(),
            "depth_probabilities": architecture.depth.softmax(-1).tolist(),
        }
        return student

    def _architecture(self, ctx: Context) -> Architecture:
        architecture = ctx.state[STATE]
        assert isinstance(architecture, Architecture)
        return architecture
