"""One job in a process of its own, watched from outside: ended when it takes too long or too much memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from bertpress.artifact.folder import write_file
from bertpress.measure.environment import usable_cores
from bertpress.measure.process import worker_variables
from bertpress.study.jobs import FAILURE, LOG
from bertpress.study.plan import Limits

LOOK_SECONDS = 0.1
GRACE_SECONDS = 60.0
"""What a process is given to write a checkpoint when the user stops the study."""


def do_isolated(place: str, limits: Mapping[str, Any], threads: int | None) -> dict[str, Any] | None:
    """Do the job in a folder, and write down there why it failed, if it did.

    Arguments and result are plain data, as this runs on other machines too.

    Args:
        place: the job's folder, which all machines see.
        limits: fields of :class:`Limits`.
        threads: of the process; all cores when None.

    Returns:
        The failure: ``reason``, ``said`` (its last line), ``seconds``; None where there is none.
    """
    folder, began = Path(place), time.monotonic()
    failure = folder / FAILURE
    failure.unlink(missing_ok=True)
    log = folder / LOG
    start = log.stat().st_size if log.exists() else 0
    reason = watched(command_for(place), log, Limits(**limits), worker_variables(threads or usable_cores()))
    if reason is None:
        return None
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").split("\n")
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    found = {"reason": reason, "said": said[:500], "seconds": round(time.monotonic() - began, 1)}
    write_file(failure, json.dumps(found, indent=1) + "\n")
    return found


def command_for(place: str) -> list[str]:
    """What does the job in a folder."""
    return [sys.executable, "-m", "bertpress.study.worker", place]


def watched(command: Sequence[str], log: Path, limits: Limits, variables: Mapping[str, str]) -> str | None:
    """Run a command in a process group of its own, within limits.

    Memory is what is resident, summed over the process and its children, so that what a library reserves and does not
    touch is free; pages that they share count for each.

    Args:
        command: that is run; its standard input stays open while this process lives.
        log: where its output is added.
        limits: beyond which the group is killed.
        variables: its environment.

    Returns:
        Why it failed, in words; None where it did not.

    Raises:
        KeyboardInterrupt: the user stopped the study; the group was given time to save its state.
    """
    deadline = time.monotonic() + 60 * limits.minutes
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True, env=dict(variables)
        )
    try:
        while (status := process.poll()) is None:
            held = resident_bytes(process.pid)
            if limits.memory_gib is not None and held > limits.memory_gib * 2**30:
                return f"held {held / 2**30:.2f} GiB of memory, more than memory_gib={limits.memory_gib:g}"
            if time.monotonic() > deadline:
                return f"took longer than minutes={limits.minutes:g}"
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGINT)
            process.wait(GRACE_SECONDS)
        raise
    finally:
        kill(process)
    if status < 0:
        return f"was killed by signal {-status}"
    return None if status == 0 else f"ended with status {status}"


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and whatever is left of its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def resident_bytes(number: int) -> int:
    """Resident memory of a process and its children."""
    try:
        root = psutil.Process(number)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    held = 0
    for one in family:
        with suppress(psutil.NoSuchProcess):
            held += one.memory_info().rss
    return held
