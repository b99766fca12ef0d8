"""Costs of units are those of the blueprint, and of measured times what a clock that errs upward allows."""

import pytest
import torch
from factored_models import factored
from tiny_transformers import tiny
from uneven_models import mixed

from bertpress.encoder.imports import from_transformers
from bertpress.errors import RecipeError
from bertpress.methods import budgets, latency
from bertpress.methods.base import Context
from bertpress.methods.budgets import Budgeted, cut, multiply_accumulates, places, sizes

TOKENS = 6


def layers_macs(blueprint):
    counted = blueprint.macs(TOKENS)
    return sum(counted[part] for part in ("attention_in", "attention", "attention_out", "ffn"))


def counted(model, multiple_of=8):
    return sizes(model.blueprint, multiply_accumulates(model.blueprint, TOKENS), multiple_of)


@pytest.mark.parametrize("make", [lambda: mixed(shapes=((6, 96), (5, 60), (2, 8))), factored])
def test_costs_are_those_of_the_smaller_blueprint(make):
    model = make()
    found = counted(model)
    assert found.whole == layers_macs(model.blueprint)
    assert found.counts[0] == list(range(len(model.blueprint.layers[0].attention.heads) + 1))
    assert found.counts[1, 0] == [*range(0, model.blueprint.layers[1].ffn[0], 8), model.blueprint.layers[1].ffn[0]]
    draw = torch.Generator().manual_seed(0)
    for _ in range(8):
        chosen = {key: int(torch.randint(len(counts), (), generator=draw)) for key, counts in found.counts.items()}
        small = cut(model, {key: range(found.counts[key][at]) for key, at in chosen.items()})
        assert found.cost(chosen) == pytest.approx(layers_macs(small.blueprint), rel=1e-12)


def test_stacked_networks_have_places_of_their_own():

    model = from_transformers(tiny("mobilebert"))
    found = counted(model)
    stack = model.blueprint.layers[0].ffn
    assert len(stack) > 1
    assert {(0, j) for j in range(len(stack))} < set(found.counts)
    assert found.whole == layers_macs(model.blueprint)
    assert places(model)[0, 1].reader == "encoder.layers.0.ffn.1.outer"


def test_a_clock_that_errs_upward_is_cut_down_to_what_more_units_take():
    times = {0: 0.3, 1: 2.0, 2: 1.0, 3: 1.5, 4: 1.4}

    def price(part, unit):
        return times[part.heads] if unit == "attention" else 1.0

    found = sizes(mixed(shapes=((4, 0),)).blueprint, price, 8)
    assert found.costs[0] == pytest.approx([0.0, 0.7, 0.7, 1.1, 1.1])
    assert found.fixed == pytest.approx(0.3)
    assert found.whole == pytest.approx(1.4)


def test_prices_are_straight_lines_between_the_sizes_that_are_asked_for():
    asked = []

    def price(part, unit):
        asked.append(part.ffn[0])
        return 5.0 + part.ffn[0] / 10 if part.ffn[0] else 1.0

    found = sizes(mixed(shapes=((0, 960),)).blueprint, price, 8)
    assert len(asked) == 8
    assert found.costs[0, 0] == pytest.approx([0.0, *(4 + n / 10 for n in range(8, 961, 8))])


def test_the_table_of_times_is_kept_in_the_folder_of_the_run(tmp_path):

    batches = [{"attention_mask": torch.ones(2, TOKENS, dtype=torch.long)}]
    model, method = mixed(shapes=((4, 64),)), Budgeted(budget="latency")
    ctx = Context(task=None, tokenizer=None, seed=0, folder=tmp_path / "stage")
    first = method.sizes(model, ctx, batches)
    latency._in_torch.cache_clear()
    assert method.sizes(model, ctx, batches) == first  # no clock gives the same numbers twice
    assert (tmp_path / f"stage/latency-torch-{TOKENS}.json").is_file()
    assert {row["unit"] for row in ctx.notes["latencies"]} == {"attention", "ffn"}


def test_a_budget_below_what_takes_no_units_is_refused():
    found = sizes(mixed(shapes=((4, 64),)).blueprint, lambda part, unit: 1.0 + part.heads, 8)
    with pytest.raises(ValueError, match=r"keep=0.2 must be at least 0.333, what takes no units"):
        found.within(0.2, {key: [0.0] * len(counts) for key, counts in found.counts.items()})


def test_an_engine_that_is_missing_is_told(monkeypatch):
    monkeypatch.setattr(budgets, "available", lambda: ["torch"])
    with pytest.raises(RecipeError, match=r"prune/x: engine=openvino must be installed"):
        Budgeted(budget="latency", engine="openvino").checked(mixed(), "prune/x")
