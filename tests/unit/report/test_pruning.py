"""The section on pruning: shares in their cells, units where their importance is, and nothing where nothing went."""

import re

import pytest

from bertpress.report import pruning, run_page
from bertpress.report.charts import heat
from bertpress.report.charts.strips import Strip, strips


def layer(heads, ffn, **more):
    return {"heads": list(range(heads)), "ffn": [ffn], **more}


BEFORE = [layer(4, 100), layer(4, 100), layer(4, 100)]
AFTER = [layer(3, 25, source=0), layer(0, 100, source=2)]


def results(after=AFTER, *notes):
    stages = [{"name": f"stage <{i}>", "notes": note} for i, note in enumerate(notes)]
    return {"baseline": {"layers": BEFORE}, "artifact": {"layers": after}, "stages": stages}


def section(page):
    found = re.search(r'<section id="pruning">.*?</section>', page, re.DOTALL)
    return found and found[0].replace("\u00a0", " ")


def test_the_map_says_what_is_left():
    page = section(run_page(results()))
    for words in ("layer 1, heads: 3 of 4<", "layer 1, FFN neurons: 25 of 100<", "layer 3, heads: 0 of 4<",
                  ">75 %<", ">25 %<", ">0 %<", ">100 %<"):  # fmt: skip
        assert words in page, words
    assert page.count('class="heat"') == 4
    assert page.count('class="empty"') == 2  # the second layer went
    assert "layer 2" not in page
    shades = [float(value) for value in re.findall(r'class="heat" fill-opacity="([\d.]+)"', page)]
    assert shades == [round(heat.tint(share), 2) for share in (0.75, 0.25, 0.0, 1.0)]


def test_what_lost_nothing_has_no_section():
    assert section(run_page(results(BEFORE))) is None
    assert section(run_page({})) is None
    assert section(run_page({"baseline": {"layers": BEFORE}})) is None
    assert not pruning.is_shown(results(BEFORE, {"heads": []}, {"heads": [{"layer": 0, "scores": ["x"]}]}))
    assert section(run_page(results([layer(4, 100), layer(4, 100), layer(4, 99)]))) is not None


def test_importances_stand_beside_what_was_kept():
    note = {
        "heads": [
            {"layer": 0, "scores": [0.25, 0.5], "kept": [False, True]},
            {"layer": 2, "scores": [0.125], "kept": [True]},
        ]
    }
    page = section(run_page(results(AFTER, note, {"neurons": note["heads"]})))
    for words in ("Importance of heads", "Importance of FFN neurons", " in stage &lt;0&gt;", " in stage &lt;1&gt;",
                  "layer 1: 0.250, removed", "layer 1: 0.500, kept", "layer 3: 0.125, kept"):  # fmt: skip
        assert words in page, words
    assert page.count('class="kept"') == 2 * 2
    assert page.count('class="gone"') == 2


def test_units_lie_where_their_importance_is():
    drawing = strips([Strip("1", [(1.0, True), (3.0, False)]), Strip("2", [(2.0, True)])], title="t")
    places = dict(
        zip(re.findall(r"layer \d: ([\d.]+)", drawing), map(float, re.findall(r'cx="([\d.]+)"', drawing)), strict=True)
    )
    assert places["2.00"] == pytest.approx((places["1.00"] + places["3.00"]) / 2, abs=0.1)
    assert places["1.00"] < places["3.00"]
    heights = re.findall(r'cy="([\d.]+)"', drawing)
    assert heights[0] == heights[1] != heights[2]


@pytest.mark.parametrize(
    "scores", [[0.0, 0.0], [-1.0, 2.0], [1e-9, 1e9], [None, 1.0], [float("nan"), 1.0], [1e200, 1.0]]
)
def test_any_importances_can_be_drawn(scores):
    page = section(run_page(results(AFTER, {"heads": [{"layer": "x", "scores": scores, "kept": [True, 1]}, None]})))
    drawn = [score for score in scores if score is not None and score == score and abs(score) < 1e100]
    assert page.count("<circle") == len(drawn)
    assert "?:" in page
