"""The section on early exits: shown where there is a curve, and marks the point that is used."""

from bertpress.report import run_page
from bertpress.report.exits import exits

CURVE = [
    {"speed": speed, "saving": saving, "metric": metric, "drop": 90.0 - metric}
    for speed, saving, metric in ((0.0, 1.0, 90.0), (0.25, 1.5, 89.5), (1.0, 5.5, 70.0))
]
RESULTS = {
    "artifact": {
        "metric": {"name": "accuracy", "value": 89.0},
        "exit_curve": {"speed": 0.25, "rows": 2000, "curve": CURVE},
        "engines": {
            "openvino": {"exits": {"mean_layer": 3.456, "layers": [1, 2, 3, 4, 5, 6]}},
            "torch": {"exits": None},
        },
    }
}


def test_a_point_for_each_speed_and_the_layers_of_each_engine():
    drawn = exits(RESULTS).replace("\u00a0", " ")
    for words in (
        "speed 0.25",
        "Accuracy against the arithmetic that exits save",
        "openvino: 3.46 of 6 layers",
        "2000",
    ):
        assert words in drawn.replace("2,000", "2000").replace("2\u202f000", "2000"), words
    assert drawn.count('class="point artifact"') == 1
    assert drawn.count('class="point candidate"') == 2
    assert "Early exits" in run_page(RESULTS)


def test_without_a_curve_there_is_no_section():
    assert exits({"artifact": {}}) is None
    assert "Early exits" not in run_page({})
