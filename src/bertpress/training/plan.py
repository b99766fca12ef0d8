"""Which examples each step reads: a function of seed and step, so that going on at step k costs nothing."""

import math
from collections.abc import Sequence
from typing import Any

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


class Plan:
    """Steps, the batches that each sums, and where the epochs end.

    Attributes:
        steps_per_epoch: updates in one pass over the rows.
        total: updates in all; may be lowered while training, when time runs short.
    """

    def __init__(self, data: Any, settings: TrainSettings, *, seed: int, world: int = 1) -> None:
        self.rows = choose_rows(data, settings.max_examples, seed)
        self.world = world
        self.sampler = BucketSampler(
            [data.lengths[row] for row in self.rows], settings.batch_size, seed=seed, group=getattr(data, "group", 1)
        )
        self.batches_per_step = settings.accumulate * world
        self.steps_per_epoch = math.ceil(len(self._order(0)) / self.batches_per_step)
        steps = max(1, math.ceil(round(settings.epochs * self.steps_per_epoch, 6)))
        self.total = steps if settings.max_steps is None else min(steps, settings.max_steps)

    def position(self, step: int) -> tuple[int, int]:
        """Epoch of update ``step`` and its place in the epoch, both from 0."""
        return divmod(step, self.steps_per_epoch)

    def parts(self, step: int, rank: int = 0) -> list[tuple[list[int], float]]:
        """Batches of update ``step`` for one process, each with its share of the update's examples."""
        batches = self._batches(step)
        examples = sum(map(len, batches))
        return [([self.rows[i] for i in batch], len(batch) / examples) for batch in batches[rank :: self.world]]

    def examples(self, step: int) -> int:
        """Examples of update ``step`` over all processes."""
        return sum(map(len, self._batches(step)))

    def used_rows(self) -> Sequence[int]:
        """The rows that the whole run reads, ascending."""
        if self.total >= self.steps_per_epoch:
            return self.rows
        return sorted(self.rows[i] for step in range(self.total) for batch in self._batches(step) for i in batch)

    def _batches(self, step: int) -> list[list[int]]:
        epoch, place = self.position(step)
        start = place * self.batches_per_step
        return self._order(epoch)[start : start + self.batches_per_step]

    def _order(self, epoch: int) -> list[list[int]]:
        if getattr(self, "_epoch", None) != epoch:
            self.sampler.set_epoch(epoch)
            self._epoch, self._epoch_batches = epoch, list(self.sampler)
        return self._epoch_batches
