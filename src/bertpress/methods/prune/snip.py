"""Turn whole residual branches into the identity: attention blocks, single heads, feed-forward networks.

Source: Lin et al. 2020, "Pruning redundant mappings in transformer models via spectral-normalized identity prior",
arXiv:2010.01791, section 3: for ``x + F(x)`` a penalty ``weight * sum_F mean |F(x)|`` pulls branches to zero while
training; a branch whose function norm (the largest, or the mean, absolute value that it puts out) lies under a
threshold of its kind is removed, and the thresholds are raised until the target; the weights of the branches are
divided by their largest singular value, one power iteration a step.
Departs from it: thresholds are what removes the scheduled share of branches of a kind, not found by a grid search; by
default a weight keeps the largest singular value that it began with (``spectral: start``), as that of a fine-tuned
model is ten times 1 and few steps cannot learn anew what ``one`` takes away.

A removed branch adds nothing, its output bias included; the norm behind it stays.  A removed head leaves the bias,
which the block's heads share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import TrainerCallback

from bertpress.encoder.attention import SelfAttention
from bertpress.encoder.factors import matrix
from bertpress.encoder.layers import EncoderLayer
from bertpress.encoder.surgery import keep_heads, keep_neurons
from bertpress.encoder.transforms import put
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.branch_norms import below, magnitudes, threshold_for
from bertpress.methods.empty import carry_storage
from bertpress.methods.selection import note
from bertpress.methods.spectral import SpectralNorm
from bertpress.methods.transform import WeightTransform
from bertpress.training.distributed import same_everywhere
from bertpress.training.objectives import Objective, Penalty
from bertpress.training.schedules import cubic

Kind = Literal["attention", "head", "ffn"]
KINDS: tuple[Kind, ...] = ("attention", "head", "ffn")


class Branch(NamedTuple):
    """One residual branch; ``part`` is the position of the head, or the network of the layer's stack."""

    kind: Kind
    layer: int
    part: int = 0


class Gate(WeightTransform):
    """Multiplies a weight by 1 where its branch is there and 0 where it is gone."""

    open: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("open", torch.ones(shape))

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape as ``weight``."""
        return weight * self.open


class Branches(nn.Module):
    """Watches the branches of a model in training: the penalty of the last pass, norms since the last look, gates.

    Args:
        model: gets gates and hooks.
    """

    alive: Tensor
    seen: Tensor
    total: Tensor
    peak: Tensor
    passes: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.keys: list[Branch] = []
        self.gates: list[tuple[Gate, slice, int]] = []  # the model owns them: gate, its branches, columns of each
        self.now: list[Tensor] = []
        self.mask: Tensor | None = None
        model.register_forward_pre_hook(self._begin, with_kwargs=True)
        for i, layer in enumerate(model.encoder.layers):
            assert isinstance(layer, EncoderLayer)
            if layer.spec.attention_from is None and layer.spec.attention.heads:
                self._watch_attention(model, i, layer.attention)
            for j, network in enumerate(layer.networks() if layer.spec.ffn_from is None else []):
                if network.width:
                    self._watch(model, Branch("ffn", i, j), f"ffn.{j}.outer")
        count = len(self.keys)
        self.register_buffer("alive", torch.ones(count, dtype=torch.bool))
        self.register_buffer("seen", torch.zeros(count))
        self.register_buffer("total", torch.zeros(count))
        self.register_buffer("peak", torch.zeros(count))
        self.register_buffer("passes", torch.zeros(()))

    def _watch_attention(self, model: Model, layer: int, unit: SelfAttention) -> None:
        heads = [Branch("head", layer, i) for i in range(len(unit.spec.heads))]
        whole, size = model.blueprint.layers[layer], unit.spec.value_size
        place = slice(len(self.keys), len(self.keys) + len(heads))
        self.keys += heads
        gate = Gate((1, unit.spec.value_width))
        put(model, f"encoder.layers.{layer}.{whole.reader('attention.output')}.weight", gate)
        self.gates.append((gate, place, size))
        unit.output.register_forward_hook(self._heads_hook(place, size))
        self._watch(model, Branch("attention", layer), "attention.output")

    def _watch(self, model: Model, branch: Branch, part: str) -> None:
        place = slice(len(self.keys), len(self.keys) + 1)
        self.keys.append(branch)
        layer, writer = f"encoder.layers.{branch.layer}", model.blueprint.layers[branch.layer].writer(part)
        for kind, shape in (("weight", (1, 1)), ("bias", (1,))):
            gate = Gate(shape)
            put(model, f"{layer}.{writer}.{kind}", gate)
            self.gates.append((gate, place, 1))
        model.get_submodule(f"{layer}.{part}").register_forward_hook(self._unit_hook(place))

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module.training:
            ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            mask = kwargs.get("attention_mask")
            self.mask = torch.ones_like(ids) if mask is None else mask
            self.now = []
            self.passes += 1

    def _unit_hook(self, place: slice) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        def hook(module: nn.Module, _: tuple[Tensor], out: Tensor) -> None:
            if module.training:
                self._see(place, out.unsqueeze(2))

        return hook

    def _heads_hook(self, place: slice, size: int) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        def hook(module: nn.Module, args: tuple[Tensor], _: Tensor) -> None:
            if module.training:
                parts = args[0].unflatten(-1, (-1, size))
                self._see(place, torch.einsum("bthv,hvd->bthd", parts, matrix(module).t().unflatten(0, (-1, size))))

        return hook

    def _see(self, place: slice, values: Tensor) -> None:
        assert self.mask is not None
        mean, peak = magnitudes(values, self.mask)
        self.now.append(mean)
        self.total[place] += mean.detach()
        self.peak[place] = torch.maximum(self.peak[place], peak)

    def forward(self) -> Tensor:
        """Sum over the branches of the mean absolute value in the last pass; those that are gone add nothing."""
        return torch.cat(self.now).sum()

    def of(self, kind: Kind) -> list[int]:
        """Positions of the branches of a kind."""
        return [i for i, branch in enumerate(self.keys) if branch.kind == kind]

    def remove(self, gone: dict[Kind, float], norm: Literal["max", "mean"]) -> dict[Kind, float]:
        """Raise the thresholds until these shares of the branches lie under them, remove these, and look anew.

        Args:
            gone: share of the branches of a kind that shall be gone.
            norm: over the data since the last look.

        Returns:
            The thresholds.
        """
        norms = self.peak if norm == "max" else self.total / self.passes.clamp(min=1)
        norms = norms.new_tensor([same_everywhere(value) for value in norms.tolist()])  # all remove the same branches
        self.seen.copy_(norms.where(self.alive, self.seen))  # of those that are gone, when they were last heard
        epsilons: dict[Kind, float] = {}
        for kind, share in gone.items():
            if places := self.of(kind):
                found = norms[places] * self.alive[places]
                epsilons[kind] = threshold_for(found, round(share * len(places)))
                self.alive[places] &= ~below(found, epsilons[kind])
            if kind == "attention":
                self._take_heads_along()
        for gate, place, size in self.gates:
            gate.open.copy_(self.alive[place].repeat_interleave(size).view(gate.open.shape))
        for buffer in (self.total, self.peak, self.passes):
            buffer.zero_()
        return epsilons

    def _take_heads_along(self) -> None:
        blocks = {branch.layer: i for i, branch in enumerate(self.keys) if branch.kind == "attention"}
        for i in self.of("head"):
            self.alive[i] &= self.alive[blocks[self.keys[i].layer]]


class Raise(TrainerCallback):  # type: ignore[misc]
    """Removes more and more branches, by a cubic schedule, every few steps."""

    def __init__(self, branches: Branches, method: Snip) -> None:
        self.branches, self.method = branches, method

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look at the norms, where it is time to."""
        if state.global_step and state.global_step % self.method.every == 0:
            share = self.method.progress(state.global_step, state.max_steps)
            gone = {kind: share * value for kind, value in self.method.gone().items()}
            self.branches.remove(gone, self.method.norm)


class Snip(Method):
    """Penalise what residual branches put out, remove the quietest while training, and cut them for real."""

    cite: ClassVar[str] = "Lin et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAINING})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.NARROW})

    keep_attention: float = Field(0.8, ge=0, le=1, description="Share of the attention blocks that stays.")
    keep_heads: float = Field(0.5, ge=0, le=1, description="Share of all heads that stays.")
    keep_ffn: float = Field(0.6, ge=0, le=1, description="Share of the feed-forward networks that stays.")
    weight: float = Field(0.01, ge=0, le=1000, description="Of the penalty in the loss.")
    norm: Literal["max", "mean"] = Field("mean", description="Of what a branch puts out, over the data of some steps.")
    spectral: Literal["start", "one", "none"] = Field(
        "start", description="Largest singular value of the branches' weights: as it was, 1 (the paper's), or free."
    )
    every: int = Field(50, ge=1, le=1_000_000, description="Steps between two removals.")
    begin: float = Field(0.1, ge=0, le=1, description="Share of the steps before the first removal.")
    end: float = Field(0.6, ge=0, le=1, description="Share of the steps after which all are removed.")

    @model_validator(mode="after")
    def _ordered(self) -> Snip:
        if self.end < self.begin:
            raise ValueError(f"end={self.end} must be at least begin={self.begin}")
        return self

    def gone(self) -> dict[Kind, float]:
        """Share of the branches of each kind that is removed in the end."""
        return {"attention": 1 - self.keep_attention, "head": 1 - self.keep_heads, "ffn": 1 - self.keep_ffn}

    def progress(self, step: int, total: int) -> float:
        """How much of that is removed at a step, 0 to 1."""
        return cubic(step, initial=0.0, final=1.0, begin=self.begin * total, end=self.end * total)

    def attach(self, model: Model, ctx: Context) -> Model:
        """Spectral norms below, gates above, and hooks that watch; refused where these would find nothing."""
        shape = model.blueprint
        if not shape.by_token:
            raise RecipeError("prune/snip: needs layers that work on the tokens as they come, not shortened or apart")
        if not any(layer.attention.heads or any(layer.ffn) for layer in shape.layers):
            raise RecipeError("prune/snip: the model has neither heads nor feed-forward networks to remove")
        generator = ctx.generator()
        for name, weight in list(model.unique_weights()) if self.spectral != "none" else []:
            if name.startswith("encoder.layers.") and (".attention." in name or ".ffn." in name) and weight.ndim == 2:
                put(model, name, SpectralNorm(weight, generator, start=self.spectral == "start"))
        ctx.state["snip"] = Branches(model)
        return model

    def objectives(self, ctx: Context) -> list[Objective]:
        """The penalty."""
        return [Penalty("branches", self._branches(ctx), weight=self.weight)]

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """The rising thresholds."""
        return [Raise(self._branches(ctx), self)]

    def finish(self, model: Model, ctx: Context) -> Model:
        """Cut the branches that are gone, after a last look."""
        branches = self._branches(ctx)
        if bool(branches.passes):
            branches.remove(self.gone(), self.norm)
        alive = dict(zip(branches.keys, branches.alive.tolist(), strict=True))
        cut = cut_branches(model, alive)
        heard: dict[int, dict[int, float]] = {}
        for i in branches.of("head"):
            heard.setdefault(branches.keys[i].layer, {})[branches.keys[i].part] = float(branches.seen[i])
        stay = {layer: [part for part in units if alive[Branch("head", layer, part)]] for layer, units in heard.items()}
        ctx.notes["heads"] = note(heard, stay)
        left = {kind: sum(alive[branch] for branch in alive if branch.kind == kind) for kind in KINDS}
        ctx.say("prune/snip keeps " + ", ".join(f"{left[k]} of {len(branches.of(k))} {k}" for k in KINDS))
        return cut

    def _branches(self, ctx: Context) -> Branches:
        branches = ctx.state["snip"]
        assert isinstance(branches, Branches)
        return branches


def cut_branches(model: Model, alive: dict[Branch, bool]) -> Model:
    """The model without the branches that are not alive; a whole sub-unit takes its output bias along."""
    heads: dict[int, list[int]] = {}
    neurons: dict[tuple[int, int], list[int]] = {}
    silent: list[tuple[int, str]] = []
    for kind, layer, part in alive:
        if kind == "head":
            ids = model.blueprint.layers[layer].attention.heads
            heads.setdefault(layer, []).extend([ids[part]] if alive[Branch(kind, layer, part)] else [])
        elif not alive[Branch(kind, layer, part)]:
            silent.append((layer, "attention.output" if kind == "attention" else f"ffn.{part}.outer"))
            if kind == "ffn":
                neurons[layer, part] = []
    cut = keep_neurons(keep_heads(model, heads), neurons)
    for layer, unit in silent:
        writer = cut.blueprint.layers[layer].writer(unit)
        cut.get_parameter(f"encoder.layers.{layer}.{writer}.bias").detach().zero_()
    carry_storage(model, cut)
    return cut
