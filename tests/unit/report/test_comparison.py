import pytest

from bertpress.report import comparison
from bertpress.report.numerals import NOT_MEASURED


def side(**changes):
    return {
        "parameters": 22_000_000,
        "weight_bytes": 88_000_000,
        "latency_ms": {"median": 10.0, "p90": 12.0},
        "throughput_per_s": 100.0,
        "metric": {"name": "accuracy", "value": 91.3, "low": 89.4, "high": 93.1},
        **changes,
    }


def table(results):
    return {row.label: row for row in comparison.rows(results)}


def test_verdict_of_a_good_run():
    results = {
        "baseline": side(),
        "artifact": side(weight_bytes=22_564_000, speedup=9.13, drop={"value": 0.4, "low": -0.3, "high": 1.2}),
    }
    assert comparison.verdict(results) == "3.9x smaller, 9.1x faster, -0.4 points [-1.2, +0.3]"


def test_verdict_of_a_bad_run_is_as_plain():
    results = {
        "baseline": side(),
        "artifact": side(weight_bytes=176_000_000, speedup=0.5, drop={"value": 2, "low": 1, "high": 3}),
    }
    assert comparison.verdict(results) == "2.0x larger, 2.0x slower, -2.0 points [-3.0, -1.0]"


def test_verdict_falls_back_on_the_medians():
    results = {"baseline": side(), "artifact": side(latency_ms={"median": 2.5})}
    assert comparison.verdict(results) == "same size, 4.0x faster, change of accuracy not measured"


def test_verdict_of_nothing():
    assert comparison.verdict({}) == NOT_MEASURED


def test_rows_compare_in_the_direction_that_is_better():
    rows = table({"baseline": side(), "artifact": side(parameters=11_000_000, throughput_per_s=400.0)})
    assert rows["Parameters"][:5] == ("Parameters", "22.00 M", "11.00 M", "2.0x fewer", 1)
    assert rows["Throughput"][:5] == ("Throughput", "100/s", "400/s", "4.0x higher", 1)
    assert rows["Latency, text to label, median"].change == "same"
    rows = table({"baseline": side(), "artifact": side(parameters=44_000_000, throughput_per_s=50.0)})
    assert (rows["Parameters"].change, rows["Parameters"].verdict) == ("2.0x more", -1)
    assert (rows["Throughput"].change, rows["Throughput"].verdict) == ("2.0x lower", -1)


def test_size_against_bert_base():
    rows = table({"baseline": side(weight_bytes=4 * 109_482_240), "artifact": side(weight_bytes=43_792_896 // 2)})
    row = rows["File, of BERT-base in float32"]
    assert (row.before, row.after) == ("100 %", "5.0 %")


@pytest.mark.parametrize(("low", "high", "verdict"), [(-0.3, 1.2, 0), (0.1, 1.2, -1), (-1.2, -0.1, 1)])
def test_a_drop_counts_only_when_its_interval_leaves_zero(low, high, verdict):
    rows = table({"baseline": side(), "artifact": side(drop={"value": 0.4, "low": low, "high": high})})
    assert rows["Metric: accuracy"].verdict == verdict


def test_other_metrics_have_rows_of_their_own():
    scores = {"accuracy": {"value": 91.3}, "f1": {"value": 90.0, "low": 88.0, "high": 92.0}}
    rows = table({"baseline": side(metrics=scores), "artifact": side(metrics={"f1": {"value": 89.5}})})
    assert rows["Metric: f1"][1:4] == ("90.0 [88.0, 92.0]", "89.5", "-0.5 points")


def test_speedup_has_its_interval():
    rows = table({"artifact": {"speedup": 9.13, "speedup_interval": [8.86, 9.31]}})
    assert rows["Speed-up, paired"].after == "9.1x [8.9, 9.3]"


def test_exact_figures_stay_available():
    row = table({"baseline": side(), "artifact": side()})["Parameters"]
    assert (row.exact_before, row.exact_after) == ("22,000,000", "22,000,000")


def test_every_key_has_a_row_even_when_nothing_was_measured():
    assert set(table({})) == set(table({"baseline": side(), "artifact": side()})) - {"Metric: accuracy"} | {
        "Metric: score"
    }
    assert all(row.after == NOT_MEASURED for row in comparison.rows({}))
