"""Where students are made: here, one at a time, or on a Ray cluster, as many at once as it has room for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Protocol

from bertpress.cluster import cluster
from bertpress.errors import UserError
from bertpress.search.candidates import Candidate
from bertpress.search.setting import Setting


class Makers(Protocol):
    """Candidates are begun while there is room, and come back in the order in which they end.

    Attributes:
        room: how many may be under way.
    """

    room: int

    @property
    def begun(self) -> list[Candidate]:
        """Those that are under way."""

    def begin(self, candidate: Candidate) -> None:
        """Begin one."""

    def ended(self) -> Candidate:
        """Wait for one that has ended; it is scored, and made if it was not, where the search runs."""


class Here:
    """One, which is made when it is scored."""

    room = 1

    def __init__(self) -> None:
        self.begun: list[Candidate] = []

    def begin(self, candidate: Candidate) -> None:
        """Keep it."""
        self.begun.append(candidate)

    def ended(self) -> Candidate:
        """The same."""
        return self.begun.pop()


class OnRay:
    """As many as the cluster has processors for.

    Args:
        ray: the library, connected.
        setting: of the search; its ``threads`` are the processors of each student.
    """

    def __init__(self, ray: Any, setting: Setting) -> None:
        threads = setting.threads or 1
        self.ray, self.setting = ray, setting
        self.room = max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
        self.job = ray.remote(num_cpus=threads, max_retries=0, max_calls=1)(make)
        self.shared = ray.put(replace(setting, say=_silent))
        self.pending: dict[Any, Candidate] = {}

    @property
    def begun(self) -> list[Candidate]:
        """Under way."""
        return list(self.pending.values())

    def begin(self, candidate: Candidate) -> None:
        """On whichever machine has room."""
        self.pending[self.job.remote(self.shared, candidate)] = candidate
        self.setting.say(f"{candidate.name}: {candidate.recipe.summary} Begun on the cluster")

    def ended(self) -> Candidate:
        """The next one; what a lost machine has left is finished where the search runs."""
        (job, *_), _ = self.ray.wait(list(self.pending), num_returns=1)
        candidate = self.pending.pop(job)
        try:
            self.ray.get(job)
        except self.ray.exceptions.RayError as fault:
            self.setting.say(f"{candidate.name}: not made on the cluster ({str(fault).splitlines()[0]})")
        return candidate

    def stop(self) -> None:
        """End what is under way; its checkpoints stay."""
        for job in self.pending:
            self.ray.cancel(job, force=True)


@contextmanager
def makers_of(setting: Setting, ray: str | None) -> Iterator[Makers]:
    """Those of a search.

    Args:
        setting: of its candidates.
        ray: address of a cluster; None: here.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    if ray is None:
        yield Here()
        return
    with cluster(ray, "search") as library:
        makers = OnRay(library, setting)
        try:
            yield makers
        finally:
            makers.stop()


def make(setting: Setting, candidate: Candidate) -> None:
    """Make a candidate; what its recipe cannot do is said when it is scored."""
    with suppress(UserError):
        setting.make(candidate)


def _silent(line: str) -> None:
    """No terminal is there."""
