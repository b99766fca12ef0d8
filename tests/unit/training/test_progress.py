import pytest

from bertpress.training import progress
from bertpress.training.progress import Meter


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_away_from_a_terminal_a_line_now_and_then_on_stderr(clock, capsys):
    meter = Meter("training")
    meter.start(100, 20)
    for step in range(21, 61):
        clock.now += 1.0
        meter.show(step, note=f"at {step}")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "training: 50/100, 50 s left  at 50\n"


def test_the_pace_counts_from_where_the_run_went_on(clock):
    meter = Meter("training", "none")
    meter.start(100, 90)
    clock.now += 10
    meter.show(95)
    assert meter.seconds_left() == pytest.approx(10)


def test_quiet_is_quiet_and_a_bar_goes_away(clock, capsys):
    for style in ("none", "bar"):
        meter = Meter("training", style)
        meter.start(3)
        clock.now += 100
        meter.show(2)
        meter.stop()
        assert meter._bar is None
    assert capsys.readouterr().out == ""
