"""Predicted costs against closed forms."""

import json

import pytest

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.search.costs import Costs, LayerTimes, parameters

SHAPE = uniform(layers=3, hidden_size=256, heads=8, ffn=1024, vocabulary=50, head=HeadSpec(kind="sequence"))


def timer(blueprint, part, unit):
    """Half a millisecond a head and one for the norm; two for each 1,024 neurons and a quarter."""
    return 1 + 0.5 * part.heads if unit == "attention" else 0.25 + 2 * sum(part.ffn) / 1024


def cut(layers):
    made = []
    for heads, ffn in layers:
        whole = SHAPE.layers[0]
        attention = whole.attention.model_copy(update={"heads": tuple(range(heads))})
        made.append(whole.model_copy(update={"attention": attention, "ffn": (ffn,), "origin": 1}))
    return SHAPE.with_layers(tuple(made))


@pytest.mark.parametrize("layers", [[(8, 1024)] * 3, [(4, 512), (1, 64)], [(0, 0)], [(3, 700), (8, 33), (0, 1024)]])
def test_layers_add_up_and_widths_between_are_straight_lines(tmp_path, layers):
    times = LayerTimes(SHAPE, timer, tmp_path)
    assert times(cut(layers)) == pytest.approx(sum(1.25 + 0.5 * heads + 2 * ffn / 1024 for heads, ffn in layers))


def test_a_table_is_kept_and_equal_layers_have_one(tmp_path):
    times = LayerTimes(SHAPE, timer, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["latencies-0.json"]
    assert len(json.loads((tmp_path / "latencies-0.json").read_text())) == 15

    def refuse(*_):
        raise AssertionError("was timed before")

    assert LayerTimes(SHAPE, refuse, tmp_path)(SHAPE) == times(SHAPE)


def test_costs_are_tied_to_one_that_was_measured(tmp_path):
    costs = Costs(LayerTimes(SHAPE, timer, tmp_path), SHAPE, measured=30.0)
    layer = 1.25 + 4 + 2
    assert costs(SHAPE) == pytest.approx(30)
    assert costs.at(1.0) == pytest.approx(30)
    assert costs.at(0.5) == pytest.approx(30 - 1.5 * layer)
    assert costs(cut([(8, 1024)])) == pytest.approx(30 - 2 * layer)
    assert costs(SHAPE, saving=2.0) == pytest.approx(30 - 1.5 * layer)


def test_bytes_go_by_weights():
    bytes_of_all = SHAPE.total_parameters / 2  # four bits each
    costs = Costs(parameters, SHAPE, bytes_of_all, scale=0.5)
    small = cut([(4, 512)])
    assert costs(small) == pytest.approx(small.total_parameters / 2)


@pytest.mark.slow
def test_predictions_come_within_a_quarter_of_what_is_measured(tmp_path):
    from bertpress.methods.latency import of_graph, on_this_machine

    shape = uniform(layers=6, hidden_size=384, heads=12, ffn=1536, vocabulary=50, head=HeadSpec(kind="sequence"))
    costs = Costs(LayerTimes(shape, on_this_machine(64, "openvino"), tmp_path), shape, of_graph(shape, 64))
    layer = shape.layers[0]
    attention = layer.attention.model_copy(update={"heads": tuple(range(6))})
    half = shape.with_layers((layer.model_copy(update={"attention": attention, "ffn": (768,)}),) * 4)
    assert costs(half) == pytest.approx(of_graph(half, 64), rel=0.25)
