"""What advice rests on: the machine, the task and its texts, the need."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bertpress.errors import UserError
from bertpress.measure.environment import Int8Check

Target = Literal["latency", "size", "memory"]
UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Terms:
    """Milliseconds of a text: ``fixed + layers * layer + giga-MACs * gmac``.

    Attributes:
        fixed: what a call takes.
        layer: what a layer takes whatever its width: its operations have to be started.
        gmac: per 10⁹ multiply-accumulates.
    """

    fixed: float
    layer: float
    gmac: float

    def __call__(self, layers: int, macs: float) -> float:
        """Of so many layers with so many multiply-accumulates in all.

        >>> Terms(0.5, 0.25, 2.0)(4, 1e9)
        3.5
        """
        return self.fixed + layers * self.layer + macs / 1e9 * self.gmac


@dataclass(frozen=True)
class Speed:
    """What models take on a machine, by layers and arithmetic.

    Attributes:
        float32: in PyTorch.
        int8: in integers.
    """

    float32: Terms
    int8: Terms


@dataclass(frozen=True)
class Machine:
    """What models will run on.

    Attributes:
        cores: that may be used.
        int8: whether integers are fast, and why.
        gpu: its name, if there is one.
        memory_bytes: of the machine.
        speed: measured; None: not measured.
    """

    cores: int
    int8: Int8Check
    gpu: str | None = None
    memory_bytes: int | None = None
    speed: Speed | None = None


@dataclass(frozen=True)
class TaskFacts:
    """What is known of the task.

    Attributes:
        kind: see :class:`bertpress.tasks.Task`.
        tokens: of the middle text.
        longest: tokens of the 95th of a hundred texts.
        fixed_passages: the second text of a pair is one of few that come again and again.
        pieces: different tokens that the training texts use; None: not known.
        several_labels: a text may have more than one.
    """

    kind: str = "text-classification"
    tokens: int = 128
    longest: int = 128
    fixed_passages: bool = False
    pieces: int | None = None
    several_labels: bool = False

    @property
    def leaves(self) -> bool:
        """Whether a text may leave early once its one class is certain."""
        return self.kind in ("text-classification", "text-pair-classification") and not self.several_labels

    @property
    def by_token(self) -> bool:
        """Whether each token needs a state of its own."""
        return self.kind in ("token-classification", "question-answering")


@dataclass(frozen=True)
class Need:
    """What is short.

    Attributes:
        target: what is to become small.
        max_drop: points that may be lost.
        limit: bytes, or milliseconds where the target is latency; None: as little as possible.
    """

    target: Target = "latency"
    max_drop: float = 1.0
    limit: float | None = None


def limit_of(text: str, target: Target) -> float:
    """``50MB`` in bytes, ``5ms`` in milliseconds.

    Raises:
        UserError: it is none, or of the other kind.

    >>> limit_of("50MB", "size")
    50000000.0
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]B|ms|s)", text)
    if found is None or (found[2] in ("ms", "s")) != (target == "latency"):
        wanted = "a time such as 5ms" if target == "latency" else "bytes such as 50MB"
        raise UserError(f"--at-most {text}: must be {wanted} where the need is {target}")
    return float(found[1]) * UNITS[found[2]]


def comes_again(passages: Sequence[str]) -> bool:
    """Whether the second texts of pairs repeat so much that keeping what was read of them pays.

    >>> comes_again(["a", "b", "a", "b", "a", "a"])
    True
    """
    return len(passages) > 1 and len(set(passages)) <= len(passages) / 2
