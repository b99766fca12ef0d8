"""What quantized activations need: which slots, their ranges from text, quantizers that learn theirs while training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from bertpress.encoder.blueprint import Scales
from bertpress.encoder.observers import Histogram, RangeRule, observing
from bertpress.encoder.quantizers import (
    MAPS,
    SCORES,
    ActivationQuantizer,
    DynamicQuantizer,
    activation_grid,
    bounds,
    fill_slots,
    is_symmetric,
    quantizers,
    slots,
)
from bertpress.encoder.running import RunningQuantizer, Shown
from bertpress.encoder.surgery import rebuild
from bertpress.methods.base import Context, Model
from bertpress.training.teacher import model_inputs


def activation_ranges(
    model: Model,
    batches: Sequence[dict[str, Tensor]],
    chosen: Callable[[str], bool],
    rule: RangeRule,
    percentile: float,
) -> dict[str, tuple[float, float]]:
    """The range of every chosen slot that calibration text reaches; pads never count.

    Args:
        model: float; its mode and weights stay as they are.
        batches: as :func:`calibration` gives them.
        chosen: says of a slot's name whether it is observed.
        rule: see :meth:`Histogram.range`.
        percentile: for that rule.
    """
    observers = {name: Histogram() for name in slots(model) if chosen(name)}
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), observing(model, observers):
            for batch in batches:
                model(**batch)
    finally:
        model.train(training)
    return {name: seen.range(rule, percentile) for name, seen in observers.items() if seen.seen}


def calibration(model: Model, ctx: Context, examples: int, *, by_length: bool = False) -> list[dict[str, Tensor]]:
    """Padded batches of training text, what the model reads of them, on its device; see :meth:`Context.batches`."""
    device = next(model.parameters()).device
    return [
        {name: tensor.to(device) for name, tensor in model_inputs(batch).items()}
        for batch in ctx.batches(examples, by_length=by_length)
    ]


def quantized_slots(
    model: Model, *, classifier: bool = False, scores: bool = True, maps: bool = False
) -> Callable[[str], bool]:
    """Which activations become integers: all that enter a linear map, but for what stays float with the classifier.

    Args:
        model: whose slots they are.
        classifier: the input of the last linear layer too, and of those of early exits.
        scores: queries and keys too.
        maps: attention maps and values too.
    """
    classified = getattr(model.head, "classifier", None) is not None

    def chosen(slot: str) -> bool:
        if slot.endswith(SCORES):
            return scores
        if slot.endswith(MAPS):
            return maps
        return not slot.endswith(("head.slot", ".exit.slot")) or not classified or classifier

    return chosen


def attach_activations(
    model: Model,
    chosen: Callable[[str], bool],
    *,
    bits: int = 8,
    scales: Scales = "static",
    decay: float = 0.9999,
    symmetric: bool = False,
) -> Model:
    """The model with quantized activations whose ranges are learnt while training (Jacob et al. 2018, section 3.1).

    Attention maps, where they are chosen, have the range [0, 1].

    Args:
        model: changed in place, so that transforms on its weights stay.
        chosen: says of a slot's name whether it is quantized; see :func:`quantized_slots`.
        bits: of the activations, 2 to 8.
        scales: ``dynamic`` learns none: each token has its own.
        decay: of the moving average of the ranges.
        symmetric: ranges evenly around 0; those of :func:`is_symmetric` slots always are.
    """
    found = slots(model)
    blueprint = model.blueprint.replace(
        activation_bits=bits,
        activation_scales=scales,
        quantized_maps=any(chosen(name) for name in found if name.endswith(MAPS)),
    )
    model.blueprint, model.config.blueprint = blueprint, type(model.config)(blueprint).blueprint
    fill_slots(model, blueprint)
    shown = Shown()
    shown.watch(model)
    for name, quantizer in quantizers(model).items():
        if not chosen(name):
            continue
        if isinstance(quantizer, DynamicQuantizer):
            quantizer.on.fill_(True)
        elif isinstance(quantizer, ActivationQuantizer) and name.endswith(".map_slot"):
            quantizer.set(1 / quantizer.high, 0)
        elif isinstance(quantizer, ActivationQuantizer):
            around = symmetric or is_symmetric(name)
            found[name].quantizer = RunningQuantizer(quantizer, shown, decay=decay, symmetric=around)
    model.to(next(model.parameters()).device)
    return model


def start_activations(model: Model, ctx: Context, examples: int) -> None:
    """Let the ranges of :func:`attach_activations` begin with those of calibration text, under the weights' transforms.

    Args:
        model: with all its transforms.
        ctx: gives the text; not asked where no range is learnt.
        examples: training examples that are looked at.
    """
    running = {name: made for name, made in quantizers(model).items() if isinstance(made, RunningQuantizer)}
    if running:
        ranges = activation_ranges(model, calibration(model, ctx, examples), running.__contains__, "minmax", 100.0)
        for name, ends in ranges.items():
            running[name].cover(*ends)


def settle_activations(model: Model) -> Model:
    """The model with the ranges that training left, and nothing else of what followed them."""
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(".quantizer.ends")}
    copied = {name: tensor.detach().clone() for name, tensor in state.items()}
    return rebuild(model, model.blueprint, copied, model.storage)


def static_buffers(model: Model, ranges: Mapping[str, tuple[float, float]]) -> dict[str, Tensor]:
    """Buffers of 8-bit quantizers of static scales, by their names in the state dict of a model that has them.

    Args:
        model: whose slots they are; stays as it is.
        ranges: of the slots that are quantized; queries and keys get grids without zero-point.
    """
    buffers: dict[str, Tensor] = {}
    for name in slots(model):
        if name.endswith(MAPS):
            continue
        scale, zero = 0.0, 0  # a scale of 0 leaves an activation float
        if name in ranges:
            around = is_symmetric(name)
            scale, zero = activation_grid(*ranges[name], *bounds(8, signed=around), symmetric=around)
        buffers[f"{name}.quantizer.scale"] = torch.tensor(scale)
        buffers[f"{name}.quantizer.zero_point"] = torch.tensor(zero, dtype=torch.int32)
    return buffers


def dynamic_buffers(model: Model, chosen: Callable[[str], bool]) -> dict[str, Tensor]:
    """Buffers of quantizers of dynamic scales, by their names in the state dict of a model that has them.

    Args:
        model: whose slots they are; stays as it is.
        chosen: says of a slot's name whether it is quantized.
    """
    return {
        f"{name}.quantizer.on": torch.tensor(chosen(name)) for name in slots(model) if not name.endswith(SCORES + MAPS)
    }
