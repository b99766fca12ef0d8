"""Writing folders whole or not at all, and the rules on what may lie in one."""

import errno
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

import psutil
from safetensors import SafetensorError

from bertpress.errors import ArtifactError, MachineError

if sys.platform != "win32":
    import fcntl

PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"})
_CONVERT = (
    'python -c "import torch, safetensors.torch as s; '
    "s.save_file({{k: v.contiguous().clone() for k, v in torch.load('{old}', weights_only=True).items()}}, "
    "'{new}', metadata={{'format': 'pt'}})\""
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
PATIENCE_SECONDS = 5.0
LONGEST_NAME = 255  # bytes
MARGIN_BYTES = 2**20  # for manifest, config, directory entries


def refuse_pickles(folder: Path) -> None:
    """Refuse a folder that has a pickle beside its configuration: reading one runs whatever code it holds.

    Folders below are left alone (OpenVINO's own weight files end in .bin).

    Raises:
        ArtifactError: names the file, and the command that converts it.
    """
    for path in sorted(folder.iterdir()):
        if path.suffix in PICKLES and path.is_file():
            command = _CONVERT.format(old=path, new=folder / "model.safetensors")
            raise ArtifactError(
                f"{path}: a pickle, which can run code when it is read, is refused; "
                f"convert it once and delete it: {command}"
            )


def inside(folder: Path, name: str) -> Path:
    """The path of a file that a manifest names, which must lie in ``folder``.

    A link may not leave the folder either; only the hub's cache, where every file is a link into ``blobs`` of the same
    repository, is taken as it is.

    Raises:
        ArtifactError: the name is absolute, has ``..``, leads outside, or is one that no file can have.
    """
    pure = PurePosixPath(name)
    windows = PureWindowsPath(name)
    plain = pure.parts and not (pure.is_absolute() or windows.drive or windows.root or "\\" in name or "\0" in name)
    if not plain or ".." in pure.parts or str(pure) != name:
        raise ArtifactError(f"{folder}: file name {name!r} must be a relative path inside the folder")
    if any(len(part.encode("utf-8", "surrogatepass")) > LONGEST_NAME for part in pure.parts):
        raise ArtifactError(f"{folder}: file name {name[:40]!r}... must have at most {LONGEST_NAME} bytes in each part")
    path = folder / pure
    roots = [folder.resolve()]
    if folder.parent.name == "snapshots":
        roots.append((folder.parent.parent / "blobs").resolve())
    if not any(path.resolve().is_relative_to(root) for root in roots):
        raise ArtifactError(f"{path}: a link to {path.resolve()}, outside the folder")
    return path


@contextmanager
def machine_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about disk and permissions into one line."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise MachineError(f"{path}: no space left on the disk") from error
        if error.errno in _DENIED:
            raise MachineError(f"{path}: not allowed to write ({error.strerror})") from error
        raise
    except SafetensorError as error:
        if any(f"os error {number}" in str(error) for number in _FULL):
            raise MachineError(f"{path}: no space left on the disk") from error
        raise


def require_space(folder: Path, needed_bytes: int) -> None:
    """Refuse early when the disk of ``folder`` lacks room.

    Raises:
        MachineError: with both figures.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + MARGIN_BYTES:
        raise MachineError(
            f"{folder}: {free / 1e6:.1f} MB free on the disk, need {(needed_bytes + MARGIN_BYTES) / 1e6:.1f} MB"
        )


@contextmanager
def alone(folder: Path, *, waits: bool = False) -> Iterator[None]:
    """Keep other writers out of ``folder`` for the time of the block, if they ask in the same way.

    The lock is the system's, on the folder itself: it ends with the process, however that ends, and leaves no file.
    Where system or disk have no such locks, nothing is kept out.

    Args:
        folder: is there.
        waits: until others have gone; otherwise they are an error, once one that was killed has had time to go.

    Raises:
        MachineError: another writer is at work there.
    """
    if sys.platform == "win32":  # folders cannot be opened there
        yield
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not _locked(handle, math.inf if waits else PATIENCE_SECONDS):
            raise MachineError(f"{folder}: another process is at work there; wait for it, or choose another")
        yield
    finally:
        os.close(handle)


def _locked(handle: int, seconds: float) -> bool:
    """Whether the lock of an open folder could be had within so many seconds."""
    if sys.platform == "win32":
        return True
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.05)
        except OSError:
            return True  # no locks on this disk


@contextmanager
def staged(folder: Path, *, needed_bytes: int = 0, overwrite: bool = False) -> Iterator[Path]:
    """A temporary sibling of ``folder`` that is renamed to it when the block ends, and removed when the block fails.

    Everything is on the disk before the rename, so that at any instant ``folder`` is absent, or old, or new and whole.

    Args:
        folder: the final place; its parents are made.
        needed_bytes: what the block will write.
        overwrite: replace a folder that is there; an empty one is always replaced.

    Raises:
        ArtifactError: the place is taken.
        MachineError: no space, no permission; ``folder`` is as it was.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ArtifactError(f"{folder}: exists and is no folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise ArtifactError(f"{folder}: exists and is not empty; choose another folder or allow to overwrite it")
    partial = _sibling(folder, "partial")
    with machine_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        require_space(folder.parent, needed_bytes)
        partial.mkdir()
    try:
        with machine_errors(folder):
            yield partial
            sync(partial)
            _swap(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sibling(folder: Path, role: str) -> Path:
    return folder.with_name(f".{folder.name}.{os.getpid()}.{role}")


def _sweep(folder: Path) -> None:
    """Clear what killed processes left beside ``folder``; an old folder that one had moved aside goes back."""
    for left in sorted(folder.parent.glob(f".{folder.name}.*")):
        process, _, role = left.name.removeprefix(f".{folder.name}.").partition(".")
        if role not in ("partial", "old") or not process.isdigit() or _alive(int(process)):
            continue
        if role == "old" and not folder.exists():
            left.rename(folder)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    return process != os.getpid() and psutil.pid_exists(process)


def _swap(partial: Path, folder: Path) -> None:
    """Put the new folder in place; the old one is deleted last."""
    old = _sibling(folder, "old")
    if folder.is_dir() and any(folder.iterdir()):
        folder.rename(old)
    try:
        partial.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    sync_directory(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync(folder: Path) -> None:
    """Force a folder and all that lies in it to the disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_directory(path)
        elif path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    sync_directory(folder)


def sync_directory(folder: Path) -> None:
    """Force a folder's list of names to the disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, text: str) -> None:
    """:func:`write_bytes` in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one step: readers see the old one or the new one.

    Raises:
        MachineError: no space or no permission; the old file is as it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with machine_errors(path):
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            sync_directory(path.parent)
        finally:
            partial.unlink(missing_ok=True)
