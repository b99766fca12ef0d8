"""The page of the benchmark of dynamic inference."""

import pytest

from bertpress.report import dynamic_page


def setting(speedup, drop, batch_32=1.5, fixed=None):
    more = {} if fixed is None else {"fixed_lengths": {"speedup": fixed}}
    return {"batch_1": {"speedup": speedup}, "batch_32": batch_32,
            "drop": {"value": drop, "low": drop - 1, "high": drop + 1}, **more}  # fmt: skip


@pytest.fixture
def entries():
    return [
        {"name": "FastBERT", "task": "sst2", "timing": {"int8": {"drop 0.5": setting(1.25, 0.3),
                                                                 "drop 2": setting(2.0, 1.5)}}},
        {"name": "PABEE", "task": "sst2", "timing": {"float32": {"drop 1": setting(1.6, 0.8, fixed=4.0)},
                                                     "int8": {"drop 1": setting(1.2, 0.8)}}},
        {"name": "LTP", "task": "ag_news"},
    ]  # fmt: skip


def text(page):
    return page.replace("\u00a0", " ")


def test_every_setting_is_a_mark_with_its_share_of_the_time(entries):
    page = text(dynamic_page(entries))
    assert page.count("<figcaption>") == 5  # int8 at batch 1 and 32, float32 at both, and once at some lengths
    for words in (
        "FastBERT, drop 0.5: 80 %, −0.3 [−1.3, 0.7]", "FastBERT, drop 2: 50 %, −1.5 [−2.5, −0.5]",
        "PABEE, drop 1: 25 %, −0.8", "int8 on OpenVINO, 32 texts at a time",
        "float32 on PyTorch, one text at a time, graphs",
    ):  # fmt: skip
        assert words in page, words


def test_what_another_beats_in_both_looks_different(entries):
    page = text(dynamic_page(entries))
    chart = page.split("int8 on OpenVINO, one text at a time</strong>")[1].split("</figure>")[0]
    role = {name: chart.split(f"<title>{name}")[0].rsplit('class="point ', 1)[1].split('"')[0]
            for name in ("FastBERT, drop 0.5", "FastBERT, drop 2", "PABEE, drop 1")}  # fmt: skip
    assert role == {"FastBERT, drop 0.5": "artifact", "FastBERT, drop 2": "artifact", "PABEE, drop 1": "dominated"}


def test_a_curve_is_a_line_and_no_area(entries):
    page = dynamic_page(entries)
    styles = page.split("<style>")[1].split("</style>")[0]
    drawn = [rule for rule in styles.split("}") if ".scatter .line" in rule.split("{")[0]]
    assert [rule for rule in drawn if "fill: none" in rule]


def test_long_names_leave_room_for_the_setting(entries):
    long = {**entries[0], "name": "FastBERT behind every second layer of a large model"}
    only = {"name": "PoWER", "task": "sst2", "timing": {"int8": {"as it is": setting(1.5, 0.1)}}}
    page = text(dynamic_page([long, only]))
    assert "…, drop 0.5: 80 %" in page
    assert "…, drop 2: 50 %" in page
    assert "PoWER: 67 %" in page


def test_what_was_not_timed_is_said(entries):
    page = text(dynamic_page(entries))
    assert "Times: not measured." in page.split('id="ag_news"')[1]
    assert "Tasks: not measured." in text(dynamic_page([]))
