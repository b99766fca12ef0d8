import math

import pytest

from bertpress.training import schedules


def test_cubic_starts_at_initial_ends_at_final_and_is_clamped():
    def value(step):
        return schedules.cubic(step, initial=1.0, final=0.2, begin=10, end=30)

    assert value(0) == value(10) == 1.0
    assert value(30) == value(99) == 0.2
    assert value(20) == pytest.approx(0.2 + 0.8 * 0.5**3)
    assert value(15) == pytest.approx(0.2 + 0.8 * 0.75**3)


def test_linear_at_key_steps():
    values = [schedules.linear(step, initial=0.0, final=0.9, begin=2, end=5) for step in (0, 2, 3, 5, 7)]
    assert values == pytest.approx([0.0, 0.0, 0.3, 0.9, 0.9])
    assert values[-1] == 0.9


def test_a_ramp_of_no_length_is_a_jump():
    assert [schedules.ramp(step, begin=3, end=3) for step in (2, 3, 4)] == [0.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="end=1 must be at least begin=2"):
        schedules.ramp(0, begin=2, end=1)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0]),
        ("cosine", [0, 0.5, 1, 0.5 * (1 + math.cos(math.pi / 4)), 0.5, 0]),
        ("constant", [0, 0.5, 1, 1, 1, 1]),
    ],
)
def test_learning_rate_factor(decay, expected):
    steps = (0, 1, 2, 4, 6, 10)
    factors = [schedules.learning_rate(step, total=10, warmup=2, decay=decay) for step in steps]
    assert factors == pytest.approx(expected)


def test_no_warmup_starts_at_the_peak():
    assert schedules.learning_rate(0, total=4, warmup=0, decay="linear") == 1.0
