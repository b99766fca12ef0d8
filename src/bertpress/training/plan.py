"""Which examples each step reads: a function of seed and step, so that going on at step k costs nothing."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bertpress.tasks import BucketSampler
from bertpress.training.settings import TrainSettings


def choose_rows(data: Any, limit: int | None, seed: int) -> list[int]:
    """Items of ``data`` to train on: all, or at most ``limit`` drawn once; items that belong together stay so."""
    group = getattr(data, "group", 1)
    if limit is None or limit >= len(data):
        return list(range(len(data)))
    count = max(1, limit // group)
    heads = np.sort(np.random.default_rng((seed, 1)).permutation(len(data) // group)[:count]) * group
    return [int(head) + i for head in heads for i in range(group)]


class Part(NamedTuple):
    """A batch of an update.

    Attributes:
        rows: of one data set.
        share: of the update's examples.
        source: which data set, from 0.
    """

    rows: list[int]
    share: float
    source: int = 0


class Plan:
    """Steps, the batches that each sums, and where the epochs end.

    Each batch is of one data set.  An epoch has every batch of all of them once, in an order that is shuffled anew, so
    that data sets take turns in proportion to their sizes.

    Attributes:
        steps_per_epoch: updates in one pass over the rows.
        total: updates in all; may be lowered while training, when time runs short.
    """

    def __init__(
        self, data: Any, settings: TrainSettings, *, seed: int, world: int = 1, others: Sequence[Any] = ()
    ) -> None:
        sources = [data, *others]
        self.rows = [choose_rows(each, settings.max_examples, seed) for each in sources]
        self.seed, self.world = seed, world
        self.samplers = [
            BucketSampler(
                [each.lengths[row] for row in rows], settings.batch_size, seed=seed, group=getattr(each, "group", 1)
            )
            for each, rows in zip(sources, self.rows, strict=True)
        ]
        self.batches_per_step = settings.accumulate * world
        self.steps_per_epoch = math.ceil(len(self._order(0)) / self.batches_per_step)
        steps = max(1, math.ceil(round(settings.epochs * self.steps_per_epoch, 6)))
        self.total = steps if settings.max_steps is None else min(steps, settings.max_steps)

    def position(self, step: int) -> tuple[int, int]:
        """Epoch of update ``step`` and its place in the epoch, both from 0."""
        return divmod(step, self.steps_per_epoch)

    def parts(self, step: int, rank: int = 0) -> list[Part]:
        """Batches of update ``step`` for one process."""
        examples = self.examples(step)
        return [
            Part([self.rows[source][i] for i in batch], len(batch) / examples, source)
            for source, batch in self._batches(step)[rank :: self.world]
        ]

    def examples(self, step: int) -> int:
        """Examples of update ``step`` over all processes."""
        return sum(len(batch) for _, batch in self._batches(step))

    def used_rows(self, source: int = 0) -> Sequence[int]:
        """The rows of a data set that the whole run reads, ascending."""
        rows = self.rows[source]
        if self.total >= self.steps_per_epoch:
            return rows
        batches = (batch for step in range(self.total) for of, batch in self._batches(step) if of == source)
        return sorted(rows[i] for batch in batches for i in batch)

    def _batches(self, step: int) -> list[tuple[int, list[int]]]:
        epoch, place = self.position(step)
        start = place * self.batches_per_step
        return self._order(epoch)[start : start + self.batches_per_step]

    def _order(self, epoch: int) -> list[tuple[int, list[int]]]:
        """The batches of an epoch, each with the data set that it is of."""
        if getattr(self, "_epoch", None) != epoch:
            for sampler in self.samplers:
                sampler.set_epoch(epoch)
            batches = [(source, batch) for source, sampler in enumerate(self.samplers) for batch in sampler]
            if len(self.samplers) > 1:
                order = np.random.default_rng((self.seed, epoch, 2)).permutation(len(batches))
                batches = [batches[i] for i in order]
            self._epoch, self._epoch_batches = epoch, batches
        return self._epoch_batches
