"""The best choice by brute force, never above the budget, and nothing more that would fit."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertpress.methods.knapsack import choose

parts = st.lists(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4), min_size=1, max_size=4
)


def tables(steps):
    """Losses that fall and costs that rise from 0, in whole numbers."""
    losses, costs = [], []
    for part in steps:
        losses.append([sum(win for win, _ in part[i:]) for i in range(len(part) + 1)])
        costs.append([sum(cost for _, cost in part[:i]) for i in range(len(part) + 1)])
    return losses, costs


def total(table, chosen):
    return sum(row[i] for row, i in zip(table, chosen, strict=True))


@given(parts, st.integers(0, 60))
@settings(max_examples=300, deadline=None)
def test_it_is_the_best_by_brute_force(steps, budget):
    losses, costs = tables(steps)
    everything = product(*(range(len(row)) for row in losses))
    least = min(total(losses, choice) for choice in everything if total(costs, choice) <= budget)
    chosen = choose(losses, costs, budget, bins=max(1, budget))
    assert total(costs, chosen) <= budget
    assert total(losses, chosen) == least
    for i, at in enumerate(chosen):
        if at + 1 < len(costs[i]):
            assert total(costs, chosen) + costs[i][at + 1] - costs[i][at] > budget


@pytest.mark.parametrize("bins", [7, 50, 10_000])
def test_few_bins_keep_the_budget_and_leave_nothing_that_fits(bins):
    losses, costs = [[3.0, 1.0, 0.0]] * 5, [[0.0, 1.31, 2.77]] * 5
    for budget in (0.1, 1.4, 6.0, 9.9, 5 * 2.77):
        chosen = choose(losses, costs, budget, bins=bins)
        spent = total(costs, chosen)
        assert spent <= budget * (1 + 1e-9)
        assert all(at == 2 or spent + costs[0][at + 1] - costs[0][at] > budget for at in chosen)
    assert chosen == [2] * 5  # a budget for all is enough for all, whatever rounding says


def test_a_start_that_costs_much_is_weighed_against_it():
    """The first unit of part 0 costs 5 and the others nothing: all of them or none."""
    losses, costs = [[4.0, 3.9, 3.8, 0.0], [3.0, 0.0]], [[0, 5, 5, 5], [0, 4]]
    assert choose(losses, costs, 5) == [3, 0]
    assert choose(losses, costs, 4.9) == [0, 1]
    assert choose(losses, costs, 9) == [3, 1]
