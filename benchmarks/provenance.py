"""What each file of results says of its making: the command, the machine and the versions."""

from __future__ import annotations

import shlex
import sys
from typing import Any

from bertpress.measure.environment import environment


def command() -> str:
    """The command that runs, as a shell takes it."""
    return shlex.join(["python", *sys.argv])


def made_on(*, threads: int | None = None, seed: int | None = None) -> dict[str, Any]:
    """``environment`` and ``command``.

    Args:
        threads: that the measurement was told to use; None leaves the key out.
        seed: likewise.
    """
    return {"environment": environment(threads=threads, seed=seed), "command": command()}
