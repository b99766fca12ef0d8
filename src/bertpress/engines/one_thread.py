"""Few tokens on one thread: to hand an operation of microseconds to several threads costs more than they save.

A part of a model that is quick enough is loaded twice, for one thread and for all, and what has few tokens runs on one.
How few is measured on the machine whenever a model is loaded, as it depends on the model and on how long threads take
to meet.  Answers are those that the engine gives on as many threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np

from bertpress.engines.base import METADATA, STATES, Array, Part, bytes_of, inputs_of
from bertpress.engines.lengths import Fixable, padding_of
from bertpress.errors import EngineError

TOKENS = (8, 16, 24, 32, 48, 64, 96, 128)
"""One row of each of these lengths is timed on one thread and on all; what is longer runs on all."""
SLOW_SECONDS = 0.0015
"""A part that takes longer for the shortest row has operations that are long enough for several threads."""
REPEATS = 5


@runtime_checkable
class Timeable(Part, Protocol):
    """A graph that runs on as many threads as it was loaded for.

    Attributes:
        hidden: size of the states that it reads; 0 where it reads none.
    """

    hidden: int


Clock: TypeAlias = Callable[[Timeable, int], float]
"""Seconds that a part takes for one row of so many tokens."""


class OneOrAll:
    """A part that is there twice.

    Args:
        one: on one thread.
        every: on all.
        alone: those of :data:`TOKENS` for which ``one`` is faster; a batch counts as the next of them that holds the
            tokens of all its rows.
    """

    name: ClassVar[str] = "one thread or all"

    def __init__(self, one: Timeable, every: Timeable, alone: Collection[int]) -> None:
        self.one, self.every, self.alone = one, every, frozenset(alone)
        self.inputs, self.files, self.hidden = every.inputs, every.files, every.hidden

    def run(self, arrays: Mapping[str, Array]) -> list[Array]:
        """See :class:`bertpress.engines.base.Part`."""
        rows, tokens = arrays[self.inputs[0]].shape[:2]
        return self.chosen(rows * tokens).run(arrays)

    def chosen(self, tokens: int) -> Timeable:
        """Which of the two runs so many tokens."""
        return self.one if next((length for length in TOKENS if length >= tokens), None) in self.alone else self.every

    def logits(self, batch: Mapping[str, Any]) -> Array:
        """See :class:`bertpress.engines.base.Engine`."""
        return self.run(inputs_of(batch, self.inputs))[0]

    def file_bytes(self) -> int:
        """Of the files, which both read."""
        return bytes_of(self)


class FixableOneOrAll(OneOrAll):
    """The same, where graphs can be made for a length."""

    def fix(self, length: int) -> None:
        """See :class:`bertpress.engines.lengths.Fixable`."""
        part = self.chosen(length)
        assert isinstance(part, Fixable)
        part.fix(length)


def few_on_one(
    every: Sequence[Part], one: Callable[[], Sequence[Part]], threads: int, clock: Clock | None = None
) -> list[Part]:
    """The parts of a model, each of which runs few tokens on one thread where that is faster.

    Args:
        every: the parts, loaded for ``threads``.
        one: loads them for one thread; called only where that may pay.
        threads: of ``every``.
        clock: else the parts are run.
    """
    clock = clock or seconds
    timeable = [part for part in every if isinstance(part, Timeable)]
    tokens = _within_positions(timeable) if len(timeable) == len(every) and threads > 1 else []
    if not tokens or all(clock(part, tokens[0]) > SLOW_SECONDS for part in timeable):
        return list(every)
    return [_shared(alone, part, tokens, clock) for alone, part in zip(one(), timeable, strict=True)]


def seconds(part: Timeable, tokens: int) -> float:
    """The shortest of some runs of one row."""
    ids = np.zeros((1, tokens), np.int64)
    arrays: dict[str, Array] = dict.fromkeys(part.inputs, ids)
    arrays |= {"attention_mask": np.ones_like(ids), STATES: np.zeros((1, tokens, part.hidden), np.float32)}
    part.run(arrays)
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        part.run(arrays)
        found.append(time.perf_counter() - began)
    return min(found)


def _within_positions(parts: Sequence[Timeable]) -> list[int]:
    """The lengths that the model can read; none where its export does not tell."""
    try:
        positions = padding_of(parts[0].files[0].with_name(METADATA))[1]
    except EngineError:
        return []
    return [length for length in TOKENS if length <= (positions or length)]


def _shared(one: Part, every: Timeable, tokens: Sequence[int], clock: Clock) -> Part:
    assert isinstance(one, Timeable)
    alone = [length for length in tokens if clock(one, length) <= clock(every, length)]
    if not alone:
        return every
    return (FixableOneOrAll if isinstance(every, Fixable) else OneOrAll)(one, every, alone)
