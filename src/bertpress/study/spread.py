"""Where jobs are done: here, one after the other, or on a Ray cluster, as many at a time as it has room for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from bertpress.cluster import cluster
from bertpress.study.isolation import do_isolated
from bertpress.study.plan import Limits

Done: TypeAlias = "tuple[str, dict[str, Any] | None]"
"""The folder of a job that has ended, and its failure if it failed."""


def here(places: Sequence[str], limits: Limits, threads: int | None) -> Iterator[Done]:
    """One at a time, in order."""
    for place in places:
        yield place, do_isolated(place, limits.model_dump(), threads)


def on_ray(places: Sequence[str], limits: Limits, threads: int | None, address: str) -> Iterator[Done]:
    """On the cluster at an address, as they end.

    Args:
        places: folders of the jobs, which every machine sees under the same paths, as it does data and models.
        limits: of each.
        threads: of each; it is given so many processors.
        address: as :func:`bertpress.cluster.cluster` takes it.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    with cluster(address, "study") as ray:
        room: dict[str, Any] = {"num_cpus": threads or 1, "max_retries": 0}
        if limits.memory_gib is not None:
            room["memory"] = int(limits.memory_gib * 2**30)
        job = ray.remote(**room)(do_isolated)
        pending = {job.remote(place, limits.model_dump(), threads): place for place in places}
        while pending:
            (ended, *_), _ = ray.wait(list(pending), num_returns=1)
            place = pending.pop(ended)
            try:
                yield place, ray.get(ended)
            except ray.exceptions.RayError as fault:  # the machine is gone, and with it the process
                yield place, {"reason": "its machine was lost", "said": str(fault).splitlines()[0], "seconds": None}
