import pytest

from bertpress.report.charts import axes


def test_linear_ticks_are_round_and_inside():
    axis = axes.linear([88.7, 93.1], 100, 0)
    assert axis.ticks == (89, 90, 91, 92, 93)
    assert axis(axis.low) == 100
    assert axis(axis.high) == 0
    assert axis((axis.low + axis.high) / 2) == pytest.approx(50)


def test_a_linear_axis_can_start_at_zero():
    axis = axes.linear([20, 100], 0, 106, zero=True)
    assert axis.low == 0
    assert axis(0) == 0
    assert axis(100) == pytest.approx(100)


def test_one_value_still_has_an_axis():
    assert axes.linear([5.0], 0, 10)(5.0) == 5
    assert axes.linear([0.0], 0, 10)(0.0) == 5


def test_logarithmic_positions_keep_ratios():
    axis = axes.fitting([1, 100], 0, 300)
    assert axis.logarithmic
    assert axis(10) - axis(1) == pytest.approx(axis(100) - axis(10))
    assert axis.ticks == (1, 3, 10, 30, 100)


@pytest.mark.parametrize("values", [[10, 39], [0, 1000], [-1, 1000]])
def test_narrow_or_not_positive_ranges_are_linear(values):
    assert not axes.fitting(values, 0, 1).logarithmic


def test_tick_labels_have_no_needless_zeros():
    assert [axes.plain(value) for value in (0, 0.05, 2.0, 1000.0, 4e-5)] == ["0", "0.05", "2", "1,000", "4e-5"]
