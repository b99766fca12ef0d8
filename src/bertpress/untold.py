"""OpenVINO without its reports: it tells its makers of every import and every conversion unless it runs in CI."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def untold() -> Iterator[None]:
    """A block in which it finds the variable that CI services set.

    Where no network answers, the threads that would report also slow a conversion down several times.
    """
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before
