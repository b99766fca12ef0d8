"""A run's folder: what was asked comes first, finished steps are marked, everything appears whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from bertpress.artifact.folder import alone, write_file
from bertpress.errors import MachineError, UserError
from bertpress.places import exists, is_dir
from bertpress.training import distributed

IDENTITY = "run.json"


class RunFolder:
    """Files of one run: ``run.json`` (its identity), finished steps as JSON, and whatever folders the steps make."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path, identity: Mapping[str, Any], *, resume: bool) -> RunFolder:
        """Start a run, or go on with the one that lies there.

        Args:
            path: the folder; it and its parents are made.
            identity: what decides the outcome; must be the same to go on.
            resume: whether an existing run may be continued.

        Raises:
            UserError: the folder holds something else, or another run.
            MachineError: it cannot be written, or another process is at work there.
        """
        plain = json.loads(json.dumps(identity, sort_keys=True))
        distributed.by_first(lambda: cls._begin(path, plain, resume))
        return cls(path)

    @classmethod
    def _begin(cls, path: Path, plain: dict[str, Any], resume: bool) -> None:
        if exists(path) and not is_dir(path):
            raise UserError(f"{path}: is a file; choose another --out")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise MachineError(f"{path}: cannot be made ({os.strerror(fault.errno or 0)})") from None
        with alone(path):
            cls(path)._identify(plain, resume)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block in which the folder belongs to this process and to those that were launched with it.

        Raises:
            MachineError: another is at work there.
        """
        with alone(self.path) if distributed.first() else nullcontext():
            yield

    def _identify(self, plain: dict[str, Any], resume: bool) -> None:
        """Write down what was asked, or compare it with what was."""
        place = self.path / IDENTITY
        if place.is_file():
            if not resume:
                raise UserError(
                    f"{self.path}: holds a run already; add --resume to go on with it, or choose another --out"
                )
            _same(self.path, _read(place), plain)
        elif any(not _begun(each) for each in self.path.iterdir()):
            raise UserError(f"{self.path}: is not empty and holds no run; choose another --out")
        else:
            for left in self.path.iterdir():  # by a process that was killed
                left.unlink()
            write_file(place, _text(plain))

    def __truediv__(self, name: str) -> Path:
        """A path below."""
        return self.path / name

    def write(self, name: str, content: Mapping[str, Any] | str) -> None:
        """Replace a file in one step; of several processes the first does."""
        if not distributed.first():
            return
        place = self.path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        write_file(place, content if isinstance(content, str) else _text(content))

    def read(self, name: str) -> dict[str, Any]:
        """The object in a file.

        Raises:
            UserError: the file is damaged, or not there.
        """
        return _read(self.path / name)

    def once(self, name: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The content of the JSON file ``name``; made and written if it is not there."""
        place = self.path / name
        if not distributed.there(place):
            self.write(name, make())
            distributed.barrier()
        return _read(place)


def _begun(path: Path) -> bool:
    """Whether this is the identity that a killed run was writing."""
    return path.name.startswith(f".{IDENTITY}.") and path.name.endswith(".partial")


def _read(path: Path) -> dict[str, Any]:
    """The object in a file of a run.

    Raises:
        UserError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as fault:
        raise UserError(f"{path}: damaged ({fault}); delete it to have it made again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: damaged (no object); delete it to have it made again")
    return content


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _same(path: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    for where, old, new in differences(there, here):
        raise UserError(f"{path}: holds a run with {where}={old}, not {new}; choose another --out")


def differences(there: Any, here: Any, where: str = "") -> Iterator[tuple[str, str, str]]:
    """Where two pieces of plain data differ: dotted place, and both values as JSON."""
    pairs: list[tuple[Any, Any, Any]] = []
    if isinstance(there, dict) and isinstance(here, dict):
        pairs = [(key, there.get(key), here.get(key)) for key in sorted({*there, *here})]
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = [(i, *both) for i, both in enumerate(zip(there, here, strict=True))]
    elif there != here:
        yield where, json.dumps(there)[:80], json.dumps(here)[:80]
    for key, old, new in pairs:
        yield from differences(old, new, f"{where}.{key}" if where else str(key))
