"""Claims in words: what holds, what does not, and what nobody has measured."""

from bertpress.report.claims import claims_table, difference

CLAIM = {"text": "Zeros | give no speed.", "cite": "Ganesh et al., 2021", "section": "4.2", "better": "a", "worse": ""}
HELD = {"claim": CLAIM, "pairs": 25, "value": 0.16, "low": 0.14, "high": 0.2, "verdict": "holds", "unit": "times",
        "evidence": ["movement", "rpp"]}  # fmt: skip
OPEN = {"claim": CLAIM, "pairs": 0, "value": None, "low": None, "high": None, "verdict": "not enough runs",
        "unit": "points", "evidence": []}  # fmt: skip


def test_a_table_has_a_line_for_each_claim():
    first, blank, head, rule, held, unknown = claims_table({"claims": [HELD, OPEN]}).splitlines()
    assert first == "1 holds, 1 not enough runs."
    assert (blank, head.count("|"), rule.count("|")) == ("", 7, 7)
    assert held == "| Zeros \\| give no speed. | 4.2 | holds | +0.16 [+0.14, +0.20] times | 25 | movement; rpp |"
    assert unknown.endswith("| not enough runs | not measured | 0 |  |")


def test_what_follows_from_a_shape_has_no_interval():
    assert difference({**HELD, "value": 21.8, "low": 21.8, "high": 21.8, "unit": "percent"}) == "+21.8 percent"
