"""Steps no worse than the full range, bits by sensitivity against all assignments, fixed steps."""

import json
from itertools import product

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from bertpress import tasks
from bertpress.artifact import packing
from bertpress.artifact.codecs import on_grid
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.grids import affine_grid, quantize, symmetric_around, symmetric_grid
from bertpress.encoder.model import build_model
from bertpress.encoder.quantizers import ActivationQuantizer, quantizers
from bertpress.encoder.transforms import put, transforms
from bertpress.errors import RecipeError
from bertpress.methods.base import Context
from bertpress.methods.quantize.fixed_point import (
    MATRIX,
    FixedPoint,
    assign_bits,
    fitted,
    group_of,
    rises_of_loss,
    task_loss,
)
from bertpress.methods.transform import bake
from bertpress.stages import clone

TASK = tasks.resolve("sst2").replace(labels=("negative", "positive"))
QUERY = "encoder.layers.0.attention.query.weight"
WORDS = "encoder.embeddings.word.weight"
FLOAT = {"activations": False}


def batch(seed=0, rows=6, width=7):
    random = torch.Generator().manual_seed(seed)
    mask = (torch.arange(width) < torch.randint(1, width + 1, (rows, 1), generator=random)).long()
    return {
        "input_ids": torch.randint(5, 40, (rows, width), generator=random) * mask,
        "attention_mask": mask,
        "labels": torch.randint(0, 2, (rows,), generator=random),
    }


def tiny(layers=2):
    torch.manual_seed(1)
    shape = uniform(layers=layers, hidden_size=16, heads=2, ffn=24, vocabulary=40, head=HeadSpec(kind="sequence"))
    model = build_model(shape)
    for _, weight in model.unique_weights():
        weight.data += 0.2 * torch.randn_like(weight)
    return model


def context(folder=None):
    return Context(task=TASK, tokenizer=None, seed=0, calibration=lambda *_: [batch(0), batch(1, 3)], folder=folder)


def no_data(*_):
    raise AssertionError("asked for data")


def after_training(method, model, ctx, steps=3, rate=0.02):
    """The model that a stage of ``steps`` updates leaves."""
    model = method.attach(model, ctx)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for step in range(steps):
        given = batch(step)
        nn.functional.cross_entropy(
            model(given["input_ids"], given["attention_mask"]).logits, given["labels"]
        ).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    bake(model)
    return method.finish(model, ctx)


def widths(model):
    return {name: stored.codecs[0].bits for name, stored in model.storage.items()}


# --- steps


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("outlier", [1.0, 30.0])
def test_the_error_of_the_step_is_at_most_that_of_the_full_range(bits, outlier):
    weight = torch.randn(30, 40, generator=torch.Generator().manual_seed(bits))
    weight[3, 4] *= outlier

    def error(grid):
        return float((quantize(weight, grid) - weight).square().mean())

    grid, full = fitted(weight, bits, MATRIX), symmetric_grid(weight, bits, MATRIX)
    assert error(grid) <= error(full)
    assert grid.high == 2 ** (bits - 1) - 1
    fine = [error(symmetric_around(full.scale * share, MATRIX, full.high)) for share in torch.linspace(0.005, 1, 400)]
    assert error(grid) <= min(fine) * 1.05
    if outlier > 1 and bits < 6:
        assert error(grid) < 0.9 * error(full)


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize(
    "weight", [torch.zeros(3, 4), torch.full((3, 4), 0.7), torch.tensor([[-2.0]])], ids=["zeros", "constant", "single"]
)
def test_degenerate_weights(weight, bits):
    made = quantize(weight, fitted(weight, bits, MATRIX))
    torch.testing.assert_close(made, weight)


def test_the_step_stays_while_the_weight_moves():
    model = FixedPoint(widths=[4], **FLOAT).attach(tiny(), context())
    [transform] = transforms(model, QUERY)
    unit = model.encoder.layers[0].attention.query
    weight = unit.parametrizations.weight.original
    unit.weight.sum().backward()
    grid = transform.grid
    step = float(grid.scale)
    inside = (weight.detach() / step).round().abs() <= 7
    assert torch.equal(weight.grad, inside.float())  # straight through within the range, nothing beyond
    assert not inside.all()
    weight.data.mul_(3.0).add_(0.01)
    codes = unit.weight.detach() / step
    assert torch.equal(codes.round().clamp(-7, 7), (weight.detach() / step).round().clamp(-7, 7))
    torch.testing.assert_close(codes, codes.round(), atol=1e-4, rtol=0)
    assert float(transform.grid.scale) == step


# --- groups and sensitivity


def test_operands_of_one_product_share_a_group():
    made = [name for name in FixedPoint().matrices(tiny()) if "layers.1." in name]
    assert {name.split("layers.1.")[1].removesuffix(".weight"): group_of(name) for name in made} == {
        "attention.query": "layers.1.attention_in",
        "attention.key": "layers.1.attention_in",
        "attention.value": "layers.1.attention_in",
        "attention.output": "layers.1.attention_out",
        "ffn.0.inner": "layers.1.ffn",
        "ffn.0.outer": "layers.1.ffn",
    }
    assert group_of("encoder.layers.3.narrow.dense.weight") == "layers.3.bottleneck"
    assert group_of("encoder.embeddings.position.weight") == group_of("encoder.embeddings.projection.weight")
    assert group_of("head.dense.weight") == "head"


def test_a_rise_is_what_quantizing_that_group_alone_adds():
    model, given = tiny(), [batch(0), batch(1, 3)]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = "encoder.layers.1.ffn.0.inner.weight"
    groups = {"query": {QUERY: MATRIX}, "words": {WORDS: (1, 0)}, "inner": {other: MATRIX}}
    model.get_parameter(other).data.copy_(
        quantize(model.get_parameter(other), fitted(model.get_parameter(other), 2, MATRIX))
    )
    before[other] = model.get_parameter(other).detach().clone()
    rises = rises_of_loss(model, TASK, given, groups, 2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    def loss(copy):
        with torch.no_grad():
            logits = torch.cat([copy(part["input_ids"], part["attention_mask"]).logits for part in given])
        return float(nn.functional.cross_entropy(logits, torch.cat([part["labels"] for part in given])))

    assert task_loss(model, TASK, given) == pytest.approx(loss(model), abs=1e-6)
    for group, names in groups.items():
        copy = tiny()
        copy.load_state_dict(before)
        for name, block in names.items():
            copy.get_parameter(name).data.copy_(quantize(before[name], fitted(before[name], 2, block)))
        assert rises[group] == pytest.approx(loss(copy) - loss(model), abs=1e-6)
    assert abs(rises["inner"]) < 1e-6  # lies on such a grid already
    assert abs(rises["words"]) > 1e-4


def test_weights_come_back_when_the_loss_fails():
    model = tiny()
    before = model.get_parameter(QUERY).detach().clone()
    given = [batch()]

    def fails(*_, **__):
        if not torch.equal(model.get_parameter(QUERY), before):
            raise RuntimeError("in between")

    model.register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="in between"):
        rises_of_loss(model, TASK, given, {"query": {QUERY: MATRIX}}, 2)
    assert torch.equal(model.get_parameter(QUERY), before)


# --- assignment


def brute_force(rises, sizes, choices, average):
    """Least sum of scaled rises over every assignment that keeps the order and the budget."""
    names, best = list(rises), float("inf")
    for given in product(choices, repeat=len(names)):
        bits = dict(zip(names, given, strict=True))
        ordered = all(bits[a] >= bits[b] for a in names for b in names if rises[a] > rises[b])
        if ordered and sum(bits[n] * sizes[n] for n in names) <= average * sum(sizes.values()):
            best = min(best, sum(rises[n] * 4.0 ** -bits[n] for n in names))
    return best


@pytest.mark.parametrize("choices", [[4], [2, 4], [3, 4, 6], [2, 3, 5, 8]])
def test_assignment_against_all_others(choices):
    random = torch.Generator().manual_seed(len(choices))
    for _ in range(10):
        rises = {f"g{i}": float(torch.randn((), generator=random)) for i in range(5)}
        sizes = {name: int(torch.randint(1, 50, (), generator=random)) for name in rises}
        average = choices[0] + float(torch.rand((), generator=random)) * (choices[-1] - choices[0])
        bits = assign_bits(rises, sizes, choices, average)
        assert sum(bits[n] * sizes[n] for n in rises) <= average * sum(sizes.values())
        assert all(bits[a] >= bits[b] for a in rises for b in rises if rises[a] > rises[b])
        assert bits[max(rises, key=rises.get)] == max(bits.values())
        error = sum(rises[n] * 4.0 ** -bits[n] for n in rises)
        assert error == pytest.approx(brute_force(rises, sizes, choices, average))


def test_assignment_by_hand():
    rises, even = {"a": 0.1, "b": 5.0, "c": 1.0}, {"a": 10, "b": 10, "c": 10}
    assert assign_bits(rises, even, [2, 4], 4.0) == {"a": 4, "b": 4, "c": 4}
    assert assign_bits(rises, even, [2, 4], 2.7) == {"a": 2, "b": 4, "c": 2}
    assert assign_bits(rises, even, [2, 4], 2.0) == {"a": 2, "b": 2, "c": 2}
    # the most sensitive group is too large to be raised, so the others must not be above it
    assert assign_bits(rises, even | {"b": 1000}, [2, 4], 3.0) == {"a": 2, "b": 2, "c": 2}
    # no sensitivity, no bits
    assert assign_bits(dict.fromkeys(rises, -1.0), even, [2, 4], 8.0) == {"a": 2, "b": 2, "c": 2}
    with pytest.raises(ValueError, match=r"average_bits=1.5 must be at least the least of widths=\[2, 4\]"):
        assign_bits(rises, even, [2, 4], 1.5)


def test_more_budget_never_costs_a_group_its_bits_in_total():
    rises = {f"g{i}": 1.0 / (i + 1) for i in range(8)}
    sizes = {name: 5 + 3 * i for i, name in enumerate(rises)}
    errors = []
    for average in (2.0, 2.5, 3.0, 4.0, 6.0, 8.0):
        bits = assign_bits(rises, sizes, [2, 4, 8], average)
        errors.append(sum(rises[name] * 4.0 ** -bits[name] for name in rises))
    assert errors == sorted(errors, reverse=True)


def test_assignment_of_a_deep_model_takes_no_time():
    rises = {f"g{i}": float(i % 7) for i in range(74)}
    bits = assign_bits(rises, dict.fromkeys(rises, 7), [2, 3, 4, 8], 4.0)
    assert sum(bits.values()) <= 4 * 74


def test_choices_are_checked():
    with pytest.raises(ValidationError, match=r"widths=\[4, 3\] must increase"):
        FixedPoint(widths=[4, 3])
    with pytest.raises(ValidationError, match=r"average_bits=3.0 must be at least the least of widths=\[4, 8\]"):
        FixedPoint(widths=[4, 8], average_bits=3)


# --- the method


@pytest.mark.parametrize("average", [3.0, 4.0, 6.0])
def test_a_stage_keeps_its_budget_and_its_steps(average, tmp_path):
    ctx = context(tmp_path)
    method = FixedPoint(average_bits=average)
    model = method.attach(tiny(), ctx)
    steps = {name: transforms(model, name)[0].grid_of(torch.zeros(1)).scale for name in method.matrices(model)}
    made = after_training(method, tiny(), ctx)
    found, sizes = widths(made), {name: weight.numel() for name, weight in made.unique_weights()}
    assert sum(found[name] * sizes[name] for name in found) <= average * sum(sizes[name] for name in found)
    assert found[QUERY] == found[QUERY.replace("query", "key")]
    for name, step in steps.items():
        assert torch.equal(made.storage[name].parts["scale"], step)
        assert made.get_parameter(name).detach().unique().numel() <= 2 ** found[name] - 1
    assert all(type(found) is ActivationQuantizer for found in quantizers(made).values())
    packing.write(tmp_path / "model.safetensors", made.state_dict(), made.storage)
    state, storage = packing.read(tmp_path / "model.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in made.state_dict().items())
    assert storage.keys() == made.storage.keys()


def test_the_analysis_is_written_down_and_read_again(tmp_path):
    told, ctx = [], context(tmp_path)
    ctx.say = told.append
    first = FixedPoint(**FLOAT).fitted(tiny(), ctx)
    content = json.loads((tmp_path / "bits.json").read_text())
    assert ctx.notes == {"groups": content}
    assert content["layers.0.attention_in"]["bits"] == (first[QUERY].high + 1).bit_length()
    top = max(content, key=lambda group: content[group]["rise"])
    assert content[top]["bits"] == max(entry["bits"] for entry in content.values())
    assert len(told) == 1
    ctx.calibration = no_data
    again = FixedPoint(**FLOAT).fitted(tiny(), ctx)
    assert all(torch.equal(grid.scale, again[name].scale) for name, grid in first.items())


def test_one_width_needs_no_analysis():
    ctx = context()
    ctx.calibration = no_data
    made = after_training(FixedPoint(widths=[4], **FLOAT), tiny(), ctx, steps=0)
    assert set(widths(made).values()) == {4}
    assert WORDS in made.storage


def test_tables_can_have_bits_of_their_own():
    method = FixedPoint(widths=[3], average_bits=3, tables_too=False, embedding_bits=8, position_bits=4, **FLOAT)
    found = widths(after_training(method, tiny(), context(), steps=0))
    assert {name.split(".")[2]: bits for name, bits in found.items() if "embeddings" in name} == {
        "word": 8,
        "position": 4,
        "segment": 8,
    }
    assert found[QUERY] == 3
    float_tables = after_training(FixedPoint(widths=[3], embedding_bits=32, **FLOAT), tiny(), context(), steps=0)
    assert not [name for name in float_tables.storage if "embeddings" in name]
    stored = after_training(FixedPoint(widths=[3], **FLOAT), tiny(), context(), steps=0).storage[WORDS]
    assert stored.parts["scale"].shape == (40, 1)


def test_a_second_stage_keeps_steps_and_widths():
    first = after_training(FixedPoint(), tiny(), context())
    ctx = context()
    ctx.stored, first.storage = first.storage, {}
    still = after_training(FixedPoint(grids="keep"), clone(first), ctx, steps=0)
    for name, weight in first.unique_weights():
        assert torch.equal(still.get_parameter(name), weight)
    moved = after_training(FixedPoint(grids="keep"), clone(first), ctx, steps=5, rate=0.1)
    assert still.storage.keys() == moved.storage.keys() == ctx.stored.keys()
    for name, stored in ctx.stored.items():
        assert moved.storage[name].codecs == stored.codecs
        assert torch.equal(moved.storage[name].parts["scale"], stored.parts["scale"])
    assert not torch.equal(moved.get_parameter(QUERY), first.get_parameter(QUERY))


def test_there_must_be_something_to_keep():
    with pytest.raises(RecipeError, match="grids=keep must follow a stage that left weights on grids"):
        FixedPoint(grids="keep").attach(tiny(), context())


def test_kept_grids_may_have_a_zero_point_and_weights_without_one_stay_float():
    ctx, model = context(), tiny()
    grid = affine_grid(model.get_parameter(QUERY), 5, (1, 0))
    ctx.stored = {QUERY: on_grid(grid)}
    made = after_training(FixedPoint(grids="keep", **FLOAT), model, ctx, steps=0)
    assert widths(made) == {QUERY: 5}


def test_zeros_of_a_mask_stay_zero():
    class Mask(nn.Module):
        def forward(self, weight):
            return weight * (weight.abs() > 0.1)

    model = tiny()
    zero = model.get_parameter(QUERY).detach().abs() <= 0.1
    put(model, QUERY, Mask())
    method = FixedPoint(**FLOAT)
    model = method.attach(model, context())
    bake(model)
    weight = method.finish(model, context()).get_parameter(QUERY).detach()
    assert (weight[zero] == 0).all()
    assert weight.any()


def test_maps_are_unsigned_in_zero_to_one_and_values_have_their_zero_in_the_middle():
    made = after_training(FixedPoint(activation_bits=6), tiny(), context())
    found = {name.rpartition(".")[2]: quantizer for name, quantizer in quantizers(made).items() if ".0.att" in name}
    maps, values, inputs = (found[f"{kind}_slot"] for kind in ("map", "value", "input"))
    assert (float(maps.scale), int(maps.zero_point), maps.low, maps.high) == (pytest.approx(1 / 63), 0, 0, 63)
    assert maps(torch.tensor([0.0, 0.5 / 63 - 1e-4, 0.4, 1.0])).tolist() == pytest.approx([0, 0, 25 / 63, 1])
    assert (int(values.zero_point), values.low, values.high) == (0, -32, 31)
    assert (inputs.low, inputs.high) == (0, 63)
    assert values.active
    assert inputs.active


def test_maps_and_values_can_stay_float():
    made = after_training(FixedPoint(maps=False), tiny(), context())
    assert not made.blueprint.quantized_maps
    assert not [name for name in quantizers(made) if name.endswith((".map_slot", ".value_slot"))]


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_maps_are_loaded_again_and_know_no_pads(bits):
    made, shown = after_training(FixedPoint(activation_bits=bits), tiny(), context()), batch(3)
    again = type(made).filled(type(made.config)(made.config.blueprint), made.state_dict(), {})
    ids, mask = shown["input_ids"], shown["attention_mask"]
    with torch.no_grad():
        together = made(ids, mask).logits
        alone = torch.cat([made(row[None, : int(kept.sum())]).logits for row, kept in zip(ids, mask, strict=True)])
        assert torch.equal(again(ids, mask).logits, together)
    assert torch.allclose(alone, together, atol=1e-5)
