"""The section on sub-networks: the front, what is drawn of it, and what is odd."""

import re

import pytest

from bertpress.report import run_page
from bertpress.report.charts.scatter import Point
from bertpress.report.subnetworks import front, subnetworks


def entry(width, depth, size, value, **more):
    metric = {"name": "accuracy", "value": value, "low": value - 1, "high": value + 1}
    return {"width": width, "depth": depth, "weight_bytes": size, "macs": 3 * size, "metric": metric, **more}


@pytest.fixture
def entries():
    return [entry(0.25, 0.5, 10_000_000, 80.0), entry(0.5, 0.5, 20_000_000, 79.0), entry(1.0, 1.0, 40_000_000, 90.0)]


def text(markup):
    return markup.replace("\u00a0", " ")


def test_the_front_by_hand():
    points = [
        Point(str(i), "candidate", x, y) for i, (x, y) in enumerate([(3, 5), (1, 2), (2, 2), (2, 4), (3, 6), (4, 6)])
    ]
    assert [(point.label, point.role) for point in front(points)] == [
        ("1", "artifact"),
        ("3", "artifact"),
        ("4", "artifact"),
    ]
    assert front([]) == []


def test_scores_against_size_and_arithmetic(entries):
    drawn = text(subnetworks({"subnetworks": entries}))
    for words in (
        "Accuracy against size", "Accuracy against arithmetic", "0.25 × 0.5: 10.0 MB, 80.0 [79.0, 81.0]",
        "1 × 1: 120 M, 90.0 [89.0, 91.0]",
    ):  # fmt: skip
        assert words in drawn, words
    assert len(re.findall(r'class="point artifact"', drawn)) == 4
    assert len(re.findall(r'class="point candidate"', drawn)) == 2
    assert all(path.count("L") == 1 for path in re.findall(r'd="(M[^"]*)" class="line"', drawn))


def test_notes_of_a_stage_are_read_too_and_the_page_has_the_section(results, entries):
    assert 'id="sub-networks"' not in run_page(results)
    results["stages"][-1].setdefault("notes", {})["subnetworks"] = entries
    page = run_page(results)
    assert 'id="sub-networks"' in page
    assert "0.5 × 0.5" in page


def test_odd_entries_are_left_out(entries):
    assert subnetworks({}) is None
    assert subnetworks({"subnetworks": [None, 3, {}, {"width": 1}, {**entries[0], "metric": 4}]}) is None
    odd = {**entries[0], "width": "<script>", "macs": None}
    drawn = subnetworks({"subnetworks": [odd]})
    assert "? × 0.5" in drawn
    assert "arithmetic" not in drawn
