"""Budgets in words, time over several sessions, predictions of how long a candidate takes."""

import time

import pytest

from bertpress.errors import UserError
from bertpress.runfolder import RunFolder
from bertpress.search.clock import Clock, Pace, seconds_of


@pytest.mark.parametrize(("budget", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1h30m", 5400)])
def test_budgets_in_words(budget, seconds):
    assert seconds_of(budget) == seconds


@pytest.mark.parametrize("budget", ["", "30", "m", "30 m", "-5m", "0s", "30m!"])
def test_what_is_no_time_is_refused(budget):
    with pytest.raises(UserError, match=f"^--budget {budget}: must be a time such as 90s, 30m or 1h30m$"):
        seconds_of(budget)


def test_a_search_that_goes_on_has_spent_what_it_had(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = Clock(60, RunFolder(tmp_path))
    now += 25
    clock.keep()
    now += 1000  # nobody was there
    later = Clock(60, RunFolder(tmp_path))
    assert (later.spent, later.left) == (25, 35)
    now += 5
    assert later.left == 30


def test_pace_is_three_forward_passes_and_then_what_was_seen():
    pace = Pace(rate=100)
    assert pace(1000, 0.5) == pytest.approx(15)
    pace.learn(4)
    pace.learn(6)
    assert pace() == 5
    assert pace(1000, 0.5) == pytest.approx(5 + 15)
    pace.learn(35, 1000, 0.5)  # 30 where 15 were expected
    assert pace(2000, 1.0) == pytest.approx(5 + 2 * 60)
