"""The parent's side of :mod:`bertpress.measure.worker`: start it, ask it, end it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from bertpress import errors


def worker_variables(threads: int) -> dict[str, str]:
    """Environment of a worker: its threads, and nothing that talks to a hub or starts threads of its own.

    Waiting threads of OpenMP sleep after some milliseconds of their own accord.  ``OMP_WAIT_POLICY=PASSIVE``
    would make them sleep at once, but then the model being measured pays a wake-up at each of its operations.
    """
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }


class Worker:
    """A fresh process that holds one model; a context manager that always ends it."""

    def __init__(self, name: str, threads: int) -> None:
        """Start the process.

        Args:
            name: of the candidate, for messages.
            threads: that every library in the process may use.

        Raises:
            BertpressError: the process did not start.
        """
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bertpress.measure.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=worker_variables(threads),
        )
        while self._read() != {"ready": True}:
            pass  # something printed while modules were being imported

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            UserError: as the worker raised it, of the same class.
            BertpressError: the worker failed or died; the message says what it said last.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"op": op, **arguments}, default=os.fspath) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._dead() from None
        answer = self._read()
        if "error" in answer:
            kind = getattr(errors, answer["error"]["type"], errors.BertpressError)
            raise kind(f"{self.name}: {answer['error']['message']}")
        return dict(answer["ok"])

    def processor_seconds(self) -> float:
        """Processor time that the process has used so far, over all its threads."""
        used = psutil.Process(self._process.pid).cpu_times()
        return float(used.user + used.system)

    def close(self) -> None:
        """End the process: its input is closed, and it is killed if that does not do."""
        if self._process.stdin and not self._process.stdin.closed:
            with suppress(OSError):  # it had died, and what was left to write has nowhere to go
                self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._dead()
        try:
            found = json.loads(line)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _dead(self) -> errors.BertpressError:
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        said = f"; it said: {lines[-1].strip()}" if lines else ""
        if status == -9:
            return errors.MachineError(f"{self.name}: its process was killed, most likely for want of memory{said}")
        return errors.BertpressError(f"{self.name}: its measuring process ended with status {status}{said}")


def folder_of(path: Path | str) -> str:
    """Absolute path for a worker, whose working directory may differ one day."""
    return str(Path(path).resolve())
