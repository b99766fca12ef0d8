"""A Ray cluster that does parts of a study or of a search, connected for as long as they use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bertpress.errors import UserError


@contextmanager
def cluster(address: str, command: str) -> Iterator[Any]:
    """Ray, connected.

    Every machine must see the folders of the command, the data and the models under the same paths.

    Args:
        address: as ``ray.init`` takes it: ``auto``, ``local``, or ``HOST:PORT``.
        command: that asks, for messages.

    Raises:
        UserError: Ray is not installed, or no cluster answers there.
    """
    try:
        import ray
    except ImportError:
        raise UserError(f"{command} --ray: ray is not installed; pip install 'bertpress[ray]'") from None
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    except (ConnectionError, ValueError) as fault:
        raise UserError(f"{command} --ray {address}: no cluster answers ({str(fault).splitlines()[0]})") from None
    try:
        yield ray
    finally:
        ray.shutdown()
