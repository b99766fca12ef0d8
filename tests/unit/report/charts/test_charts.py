"""Drawings: what is in them, and that numbers become lengths and places."""

import re

import pytest

from bertpress.report import numerals
from bertpress.report.charts import bars, curves, depth, ridges, scatter


def test_bars_are_as_long_as_their_values():
    groups = [
        ("One", [bars.Bar("baseline", "before", 200.0, 400.0), bars.Bar("artifact", "after", 50.0, 100.0)]),
        ("Two", [bars.Bar("baseline", "before", None, 400.0)]),
    ]
    panel = bars.panel("Parameters", groups, numerals.count)
    assert re.findall(r"width:([\d.]+)%", panel) == ["100.00", "25.00"]
    assert panel.count("50\u00a0%") == 4  # both shares, in the cell and in the title
    assert panel.count("not measured") == 1


def test_bars_of_nothing_but_zeros_are_empty():
    panel = bars.panel("MACs", [("One", [bars.Bar("artifact", "after", 0, 0)])], numerals.quantity)
    assert re.findall(r"width:([\d.]+)%", panel) == ["0.00"]


def test_labels_keep_clear_of_each_other():
    points = [("baseline", 100.0, 100.0), ("openvino", 102.0, 101.0), ("onnxruntime", 98.0, 99.0)]
    placed = scatter.place_labels(points, within=(0, 0, 400, 250))
    boxes = [scatter._box(place, scatter.LETTER * len(p[0])) for place, p in zip(placed, points, strict=True)]
    assert all(scatter._overlap(a, b) == 0 for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(box[0] >= 0 and box[1] >= 0 and box[2] <= 400 and box[3] <= 250 for box in boxes)


def test_labels_at_the_right_edge_go_left():
    ((x, _, anchor),) = scatter.place_labels([("baseline", 390.0, 100.0)], within=(0, 0, 400, 250))
    assert anchor == "end"
    assert x < 390


def test_a_crowd_loses_labels_and_no_marks():
    points = [scatter.Point(f"candidate {i}", "candidate", 50.0 + i / 100, 90.0) for i in range(40)]
    drawing = scatter.scatter([*points, scatter.Point("far", "baseline", 100, 80)], title="t", x_label="x",
                              y_label="y", show_x=numerals.size)  # fmt: skip
    assert drawing.count('class="mark"') == 41
    assert 2 <= drawing.count('class="label"') <= 20


def test_a_scatter_shows_each_point_with_its_interval():
    points = [
        scatter.Point("baseline", "baseline", 90e6, 91.3, 89.4, 93.1),
        scatter.Point("<b>", "candidate", 14e6, 90.9),
    ]
    drawing = scatter.scatter(points, title="t", x_label="size", y_label="percent", show_x=numerals.size)
    assert drawing.count('class="mark"') == 2
    assert drawing.count('class="bar"') == 3  # a whisker with two ends, for the one that has an interval
    assert "90.0\u00a0MB, 91.3 [89.4,\u00a093.1]" in drawing
    assert "<b>" not in drawing


def test_density_has_its_peak_where_the_samples_are():
    heights = ridges.density([10.0] * 50 + [90.0] * 5, 0.0, 100.0)
    assert max(heights) == 1
    assert heights.index(1.0) == int(0.10 * ridges.BINS)
    assert heights[int(0.9 * ridges.BINS)] == pytest.approx(0.1)


def test_a_long_log_is_averaged_and_a_short_one_is_not():
    assert curves.averaged([1, 2, 3], [5, 6, 7]) == [(1, 5), (2, 6), (3, 7)]
    points = curves.averaged(list(range(400)), [float(i % 3) for i in range(400)])
    assert len(points) <= curves.MOST_POINTS
    assert points[0] == (1, 1)  # the mean of the first three
    assert curves.span(400) == 3


def layer(heads, ffn, **more):
    return {"heads": heads, "ffn": ffn, **more}


def cells(drawing, kind):
    return len(re.findall(f'class="{kind}"', drawing))


def test_layers_show_what_is_left_of_each():
    before = [layer([0, 1, 2, 3], [1536]) for _ in range(3)]
    after = [layer([1, 3], [384], source=0), layer([], [64, 64], source=2)]
    drawing = depth.layers(before, after)
    assert cells(drawing, "kept") == 2
    assert cells(drawing, "removed") == 2 + 4 + 4
    assert "layer removed" in drawing
    assert "384 of 1,536" in drawing
    assert "64 + 64 of 1,536" in drawing
    assert 'class="left" style="width:25.00%"' in drawing
    assert depth.summary({"layers": after}) == "2 layers, 2 heads, 512 FFN neurons"


def test_layers_without_a_source_stand_at_their_own_depth():
    drawing = depth.layers([layer([0], [8])], [layer([0], [8]), layer([0, 1], [16])])
    assert drawing.count("<tr") == 3
    assert "1 of 1" in drawing


def test_a_blueprints_layers_are_understood():
    spec = {"attention": {"heads": [0, 5], "head_size": 64}, "ffn": [700], "attention_from": 0}
    drawing = depth.layers([], [spec])
    assert cells(drawing, "kept") == 2
    assert "shared with layer 1" in drawing
