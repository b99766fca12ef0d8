"""The front against every pair, on points that often coincide."""

from hypothesis import given
from hypothesis import strategies as st

from bertpress.study.pareto import dominated

coordinates = st.integers(0, 6).map(float)


def beaten(one, others):
    return any(a <= one[0] and b <= one[1] and (a, b) != one for a, b in others)


@given(st.lists(st.tuples(coordinates, coordinates), max_size=12))
def test_it_agrees_with_brute_force(points):
    assert dominated(points) == [beaten(point, points) for point in points]


def test_nothing_is_beaten_where_costs_buy_something():
    assert dominated([]) == []
    assert dominated([(3.0, -1.0), (2.0, 0.0), (1.0, 4.0)]) == [False] * 3
