"""Checkpoints that a kill at any instant cannot tear, and that never hold more than tensors and plain values.

A file is written beside its final name, flushed to disk, and renamed into place; the two newest are kept, so that
a file damaged later falls back to the one before.  The zip container holds a checksum of every tensor; files are
checked before they are used, and read with ``weights_only=True``.
"""

import errno
import logging
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch

from bertpress.errors import BertpressError, MachineError

FORMAT = 1
_KEPT = 2
_log = logging.getLogger(__name__)


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a file that appears under ``path`` only when it is whole and on disk.

    Raises:
        MachineError: the disk is full or must not be written; what stood under ``path`` still does.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        failure = _os_error(error)
        if failure is None:
            raise
        raise machine_error(path, failure) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def machine_error(path: Path, error: OSError) -> MachineError:
    """One line that names the path and, where the disk is full, what is free."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = shutil.disk_usage(existing(path.parent)).free
        return MachineError(f"{path}: no space left on the disk ({free} bytes free)")
    return MachineError(f"{path}: cannot be written: {error.strerror or error}")


def existing(folder: Path) -> Path:
    """``folder`` or the nearest folder above it that exists."""
    return next((place for place in (folder, *folder.absolute().parents) if place.is_dir()), Path("/"))


def _os_error(error: BaseException | None) -> OSError | None:
    """The operating system's error behind ``error``: torch's writer wraps it."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # folders cannot be opened there; renames are durable enough
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path) -> dict[str, Any]:
    """The content of a whole file.

    Raises:
        BertpressError: the file is torn, changed, or not one of ours.
    """
    try:
        with zipfile.ZipFile(path) as container:
            bad = container.testzip()
        if bad is not None:
            raise BertpressError(f"{path}: damaged at '{bad}'")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, zipfile.BadZipFile, EOFError, ValueError, UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120]
        raise BertpressError(f"{path}: not a readable checkpoint ({reason})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BertpressError(f"{path}: not a checkpoint of this version")
    return content


class Checkpoints:
    """The checkpoints of one training run, in a folder of its own, and its ``done.pt`` at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done_path = folder / "done.pt"
        self.best_path = folder / "best.pt"

    def begin(self, *, resume: bool) -> None:
        """Make the folder, and remove what a kill has left half written; without ``resume`` all of an earlier run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.sweep()
        if not resume:
            self.clear()

    def save(self, step: int, content: dict[str, Any]) -> None:
        """Write the state after ``step`` updates; older ones go once it is in place."""
        self._write(self.folder / f"checkpoint-{step:09d}.pt", content)
        for old in self._found()[_KEPT:]:
            old.unlink(missing_ok=True)

    def save_best(self, content: dict[str, Any]) -> None:
        """Write the best weights so far."""
        self._write(self.best_path, content)

    def save_done(self, content: dict[str, Any]) -> None:
        """Write the result, which marks the run as finished; the checkpoints are needed no longer."""
        self._write(self.done_path, content)
        for old in self._found():
            old.unlink(missing_ok=True)
        self.best_path.unlink(missing_ok=True)

    def latest(self) -> dict[str, Any] | None:
        """The newest checkpoint that is whole; damaged ones are reported and passed over."""
        for path in self._found():
            try:
                return read(path)
            except BertpressError as error:
                _log.warning("%s; going back to the checkpoint before", error)
        return None

    def best(self) -> dict[str, Any] | None:
        """The best weights so far, if any were kept."""
        return read(self.best_path) if self.best_path.exists() else None

    def done(self) -> dict[str, Any] | None:
        """The result of a finished run; a damaged one counts as unfinished."""
        if not self.done_path.exists():
            return None
        try:
            return read(self.done_path)
        except BertpressError as error:
            _log.warning("%s; training again", error)
            return None

    def clear(self) -> None:
        """Remove everything that an earlier run left here."""
        for path in (*self._found(), self.done_path, self.best_path):
            path.unlink(missing_ok=True)
        self.sweep()

    def sweep(self) -> None:
        """Remove what killed writers left half-written."""
        for path in self.folder.glob(".*.pt.*.partial"):
            path.unlink(missing_ok=True)

    def _found(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*.pt"), reverse=True)

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        write_atomically(path, lambda file: torch.save({"format": FORMAT, **content}, file))
