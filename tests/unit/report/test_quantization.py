"""The page of the quantization benchmark."""

import re

import pytest

from bertpress.report import sensitivity_page
from bertpress.report.charts.lines import Line, Score, lines


def entry(name, value, task="sst2", size=10_000_000, train=False, **more):
    stage = {"name": "s", **({"train": {"epochs": 2}} if train else {})}
    return {
        "name": name, "task": task, "seed": 0, "metric": {"name": "accuracy", "value": value, "low": value - 1,
        "high": value + 1}, "baseline": {"name": "accuracy", "value": 91.0, "low": 89.0, "high": 93.0},
        "weight_bytes": size, "percent_of_teacher": size / 1e6, "recipe": {"stages": [stage]}, **more,
    }  # fmt: skip


def text(page):
    return page.replace("\u00a0", " ")


@pytest.fixture
def entries():
    parts = [(part, bits) for part in ("embeddings", "encoder", "both") for bits in (8, 4, 2)]
    made = [entry(f"sensitivity: {part}, {bits} bits", 80.0 + bits + len(part) / 100) for part, bits in parts]
    return [*made, entry("GOBO, 3 bits", 90.5), entry("TernaryBERT", 88.2, size=5_000_000, train=True)]


def test_each_task_has_both_charts(entries):
    page = text(sensitivity_page([*entries, entry("GOBO, 3 bits", 70.0, task="mrpc")]))
    assert page.count("accuracy against bits</figcaption>") == page.count("accuracy against size</figcaption>") == 2
    assert "Accuracy against bits: not measured." in page  # of mrpc
    for words in (
        "12 runs. Tasks: sst2, mrpc.", "embeddings alone, 4: 84.1 [83.1, 85.1]", "encoder alone, 2: 82.1 [81.1, 83.1]",
        "both, 8: 88.0", "GOBO, 3 bits: 10.0 MB, 90.5 [89.5, 91.5]", "teacher: 100 MB, 91.0 [89.0, 93.0]",
    ):  # fmt: skip
        assert words in page, words


def test_trained_methods_look_different(entries):
    page = text(sensitivity_page(entries))
    assert re.search(r'<g class="point artifact"><title>TernaryBERT', page) or re.search(
        r'<g[^>]*class="point artifact"[^>]*>\s*<title>TernaryBERT', page
    )
    assert re.search(r'<g[^>]*class="point candidate"[^>]*>\s*<title>GOBO', page)
    assert "sensitivity: " not in page


def test_seeds_are_averaged_and_their_bounds_are_the_outermost(entries):
    more = [entry("GOBO, 3 bits", value, seed=seed) for seed, value in enumerate((88.0, 92.5), 1)]
    assert "GOBO, 3 bits: 10.0 MB, 90.3 [87.0, 93.5]" in text(sensitivity_page([*entries, *more]))


def test_settings_are_drawn_in_their_order():
    page = text(sensitivity_page([entry(f"sensitivity: both, {bits} bits", 80.0) for bits in (2, 8, 4)]))
    path = re.search(r'd="M([^"]*)" class="line"', page)[1]
    places = [float(pair.split()[0]) for pair in path.split("L")]
    assert places == sorted(places)
    assert places[2] - places[1] == pytest.approx(2 * (places[1] - places[0]), abs=0.3)


def test_no_entries_and_broken_ones_say_so():
    page = text(sensitivity_page([]))
    assert page.count("Tasks: not measured.") == 3
    odd = [None, 3, {}, {"task": "sst2"}, {"task": "sst2", "name": "x"}, entry("GOBO", 5.0, weight_bytes=None)]
    odd += [entry("sensitivity: nothing, 3 bits", 4.0), {**entry("A", 1.0), "recipe": None, "metric": {"value": 7}}]
    odd += [{**entry("B", 1.0), "baseline": None, "percent_of_teacher": 0, "weight_bytes": 0}]
    page = text(sensitivity_page(odd))
    assert "Score" in page
    assert "A: 10.0 MB, 7.0" in page


def test_hostile_names_stay_text():
    hostile = '"><script>alert(1)</script>'
    made = entry(hostile, 90.0, task=hostile, metric={"name": hostile, "value": 90.0})
    page = sensitivity_page([made, {**made, "name": "sensitivity: both, 4 bits"}])
    assert "<script>alert" not in page
    assert "&quot;&gt;&lt;script&gt;alert(1)" in page


def test_lines_without_intervals_have_no_bars():
    series = [Line("<a>", "artifact", [Score(2, 80.0), Score(4, 90.0, 88.0, 91.0)])]
    drawing = lines(series, level=None, title="t", x_label="bits", y_label="percent")
    assert drawing.count('class="bar"') == 1
    assert drawing.count('class="mark"') == 2
    assert 'class="level"' not in drawing
    assert "<a>" not in drawing
    assert 'class="level"' in lines(series, level=92.0, title="t", x_label="bits", y_label="percent")
