"""What lies at a path that somebody named: no for every name that a system cannot have.

``pathlib`` raises for a name that is too long, until Python 3.14.
"""

from __future__ import annotations

import os.path
from pathlib import Path


def is_dir(path: Path) -> bool:
    """Whether there is such a folder."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Whether there is such a file."""
    return os.path.isfile(path)  # noqa: PTH113


def exists(path: Path) -> bool:
    """Whether there is anything."""
    return os.path.exists(path)  # noqa: PTH110
