"""The time that a search may take: what was spent, in all its sessions, and what a candidate will."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from statistics import median

from bertpress.errors import UserError
from bertpress.runfolder import RunFolder

SPENT = "spent.json"
UNITS = {"s": 1, "m": 60, "h": 3600}
BACKWARD = 3.0
"""A step of training takes about three forward passes."""


def seconds_of(budget: str) -> float:
    """``90s``, ``30m``, ``1.5h`` or ``1h30m`` in seconds.

    Raises:
        UserError: it is none of these, or nothing.

    >>> seconds_of("1h30m")
    5400.0
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", budget)
    total = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != budget or total <= 0:
        raise UserError(f"--budget {budget}: must be a time such as 90s, 30m or 1h30m")
    return total


class Clock:
    """Seconds of a budget, counted over all sessions of a search.

    Args:
        budget: seconds.
        folder: keeps what was spent, so that a search that goes on does not begin to count again.
    """

    def __init__(self, budget: float, folder: RunFolder) -> None:
        self.budget, self.folder = budget, folder
        self.before: float = folder.once(SPENT, lambda: {"seconds": 0.0})["seconds"]
        self.began = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return self.before + time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds; below 0 once it is over."""
        return self.budget - self.spent

    def keep(self) -> None:
        """Write down what was spent."""
        self.folder.write(SPENT, {"seconds": self.spent})


class Pace:
    """Predicts how long candidates take, and learns from those that are done.

    Args:
        rate: examples a second that the teacher answers.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.fixed: list[float] = []
        self.ratios: list[float] = []

    def training(self, examples: float, share: float) -> float:
        """Seconds of training on so many examples, with this share of the teacher's arithmetic, by the rate alone."""
        return examples * BACKWARD * share / self.rate

    def __call__(self, examples: float = 0.0, share: float = 1.0) -> float:
        """Seconds of a candidate: what those without training took, and its training."""
        return _middle(self.fixed, 0.0) + _middle(self.ratios, 1.0) * self.training(examples, share)

    def learn(self, seconds: float, examples: float = 0.0, share: float = 1.0) -> None:
        """A candidate has taken so long."""
        if not examples:
            self.fixed.append(seconds)
        elif expected := self.training(examples, share):
            self.ratios.append(max(0.0, seconds - _middle(self.fixed, 0.0)) / expected)


def _middle(values: Sequence[float], otherwise: float) -> float:
    return median(values) if values else otherwise
