"""Who lies on a front, in words: the cheapest first, losses as negative changes."""

from bertpress.report.fronts import fronts_table

POINTS = [
    {"label": "dear", "cost": 20_000_000, "drop": -0.34, "dominated": False},
    {"label": "cheap", "cost": 5_000_000, "drop": 1.25, "dominated": False},
    {"label": "beaten", "cost": 21_000_000, "drop": 1.0, "dominated": True},
]


def test_a_front_is_one_row():
    fronts = [{"task": "sst2", "cost": "packed", "points": POINTS}, {"task": "sst2", "cost": "unheard of"}]
    head, _, row = fronts_table({"fronts": fronts}).splitlines()
    assert head.startswith("| Task | Cost |")
    assert row == "| sst2 | packed file | cheap (5.00 MB, -1.2), dear (20.0 MB, +0.3) |"
