import pytest

from bertpress.training import TrainSettings
from bertpress.training.plan import Plan, choose_rows


def make(count=50, *, group=1, world=1, **changes):
    data = Rows([3 + i % 7 for i in range(count)], group)
    return Plan(data, TrainSettings(**{"epochs": 2, "batch_size": 8, **changes}), seed=1, world=world)


class Rows:
    def __init__(self, lengths, group):
        self.lengths, self.group = lengths, group

    def __len__(self):
        return len(self.lengths)


def rows_of(plan, steps, rank=0):
    return [row for step in steps for part in plan.parts(step, rank) for row in part.rows]


def test_an_epoch_reads_every_row_once_and_the_next_in_another_order():
    plan = make()
    assert (plan.steps_per_epoch, plan.total) == (7, 14)
    first, second = rows_of(plan, range(7)), rows_of(plan, range(7, 14))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert rows_of(make(), range(7, 14)) == second


def test_shares_of_a_step_sum_to_one_and_a_short_last_step_stays_in_its_epoch():
    plan = make(accumulate=3)
    assert plan.steps_per_epoch == 3
    for step in range(plan.total):
        parts = plan.parts(step)
        assert sum(part.share for part in parts) == pytest.approx(1)
    assert len(plan.parts(2)) == 1
    assert sum(plan.examples(step) for step in range(3)) == 50


@pytest.mark.parametrize(("epochs", "total"), [(0.5, 4), (1.0, 7), (1.01, 8), (0.001, 1)])
def test_fractions_of_an_epoch(epochs, total):
    plan = make(epochs=epochs)
    assert plan.total == total
    assert set(rows_of(plan, range(total))) == set(plan.used_rows())


def test_a_limit_on_updates_ends_the_run_within_an_epoch_or_not_at_all():
    plan = make(max_steps=4)
    assert plan.total == 4
    assert set(rows_of(plan, range(4))) == set(plan.used_rows()) < set(range(50))
    assert make(max_steps=99).total == 14


def test_processes_share_a_step_without_overlap():
    plan = make(world=2, accumulate=2)
    alone = make(accumulate=4)
    for step in range(plan.total):
        mine = rows_of(plan, [step], 0) + rows_of(plan, [step], 1)
        assert sorted(mine) == sorted(rows_of(alone, [step]))


def test_a_limit_keeps_groups_together_and_depends_on_the_seed_alone():
    data = Rows([5] * 40, 2)
    chosen = choose_rows(data, 11, seed=3)
    assert len(chosen) == 10
    assert all(chosen[i] + 1 == chosen[i + 1] and chosen[i] % 2 == 0 for i in range(0, 10, 2))
    assert chosen == choose_rows(data, 11, seed=3) != choose_rows(data, 11, seed=4)
    assert choose_rows(data, None, seed=3) == list(range(40))


def several(**changes):
    """Data sets of 50, 17 and 2 x 8 rows."""
    data, *others = [Rows([3 + i % 7 for i in range(count)], group) for count, group in ((50, 1), (17, 1), (16, 2))]
    settings = TrainSettings(**{"epochs": 2, "batch_size": 8, **changes})
    return Plan(data, settings, seed=1, others=others)


def test_data_sets_take_turns_in_proportion_to_their_sizes():
    plan = several()
    assert plan.steps_per_epoch == 7 + 3 + 1
    orders = []
    for epoch in range(2):
        parts = [part for step in range(11 * epoch, 11 * epoch + 11) for part in plan.parts(step)]
        orders.append([part.source for part in parts])
        assert [orders[-1].count(source) for source in range(3)] == [7, 3, 1]
        for source, count in enumerate((50, 17, 16)):
            read = [row for part in parts if part.source == source for row in part.rows]
            assert sorted(read) == list(range(count)) == list(plan.used_rows(source))
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])
    assert [[part.source for part in several().parts(step)] for step in range(11)] == [[of] for of in orders[0]]


def test_rows_of_a_short_run_are_told_by_data_set():
    plan = several(max_steps=4)
    for source in range(3):
        read = [row for step in range(4) for part in plan.parts(step) if part.source == source for row in part.rows]
        assert sorted(read) == list(plan.used_rows(source))


def test_a_limit_holds_for_each_data_set():
    assert [len(rows) for rows in several(max_examples=10).rows] == [10, 10, 10]
