"""What surrounds a command: its answer on standard output and nothing else there, its mistakes in one line."""

from __future__ import annotations

import errno
import inspect
import json
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec, TextIO

import typer

from bertpress.errors import BertpressError, Interrupted, MachineError

P = ParamSpec("P")

WIDTH_OF_FILES = 140
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Answer:
    """What a command says.

    Attributes:
        data: plain data for ``--json``.
        shown: lines and tables for people, made as they are printed.
    """

    data: Any = None
    shown: Iterable[Any] = field(default_factory=tuple)


def answering(command: Callable[P, Answer]) -> Callable[P, None]:
    """Print a command's answer; whatever libraries print on the way goes to standard error."""
    resumable = "resume" in inspect.signature(command).parameters

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with own_stdout() as stdout:
                answer = command(*args, **kwargs)
                if os.environ.get("RANK", "0") != "0":  # of several processes the first speaks
                    return
                if kwargs.get("json_"):
                    stdout.write(as_json(answer.data) + "\n")
                else:
                    show(answer.shown, stdout)
                stdout.flush()
        except BrokenPipeError:  # the reader has seen enough
            return
        except (KeyboardInterrupt, Interrupted) as stop:
            said = str(stop).removesuffix("; run again to go on") or "interrupted"
            hint = "; the same command with --resume goes on" if resumable and "resume" not in said else ""
            raise Interrupted(said + hint) from None

    return run


@contextmanager
def own_stdout() -> Iterator[TextIO]:
    """Standard output for the answer alone: in the block, prints of Python and of C libraries go to stderr."""
    stdout = sys.stdout
    try:
        number = stdout.fileno()
    except (OSError, ValueError, AttributeError):  # captured, as tests do: there is no descriptor to guard
        sys.stdout = sys.stderr
        try:
            yield stdout
        finally:
            sys.stdout = stdout
        return
    stdout.flush()
    kept = os.fdopen(os.dup(number), "w", encoding="utf-8", errors="surrogateescape")
    saved = os.dup(number)
    os.dup2(sys.stderr.fileno(), number)
    sys.stdout = sys.stderr
    try:
        yield kept
    finally:
        sys.stdout = stdout
        os.dup2(saved, number)
        os.close(saved)
        _close(kept)


def _close(file: TextIO) -> None:
    with suppress(BrokenPipeError):
        file.close()


def show(shown: Iterable[Any], stdout: TextIO) -> None:
    """Print lines as they are, and tables of rich."""
    from rich.console import Console

    console = Console(file=stdout, width=None if stdout.isatty() else WIDTH_OF_FILES)
    for item in shown:
        if isinstance(item, str):
            text = item + "\n"
        else:
            with console.capture() as capture:  # rich would end the process at a closed pipe
                console.print(item)
            text = capture.get()
        stdout.write(text)
        stdout.flush()


def as_json(data: Any) -> str:
    """JSON in one line; NaN and infinities, which JSON does not have, become null."""
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False)
    except ValueError:
        from bertpress.artifact.save import finite

        return json.dumps(finite(data), ensure_ascii=False, allow_nan=False)


def say(line: str) -> None:
    """One line of progress."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def meter(label: str) -> Callable[[int, int], None]:
    """Shows how far a measurement is, as training does."""
    from bertpress.training.progress import Meter

    return Meter(label).advance


def command_line() -> str:
    """What repeats this run."""
    words = [word for word in sys.argv[1:] if word not in ("--json", "--resume")]
    return shlex.join(["bertpress", *words])


def run(app: typer.Typer, words: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 done, 1 a fault of ours, 2 the user's input is wrong, 130 interrupted.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        return _status(app, words)


def _status(app: typer.Typer, words: Sequence[str] | None) -> int:
    try:
        status = typer.main.get_command(app)(
            args=None if words is None else list(words), prog_name="bertpress", standalone_mode=False
        )
        return status if isinstance(status, int) else 0
    except BertpressError as error:
        return _fail(str(error), error.exit_status)
    except typer.Abort:
        return _fail("interrupted", Interrupted.exit_status)
    except MemoryError:
        return _fail("the machine has too little memory for this", MachineError.exit_status)
    except Exception as error:
        if (tell := getattr(error, "format_message", None)) is not None:  # what typer raises for a wrong option
            return _fail(tell(), 2)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _fail(f"{error.filename or 'disk'}: no space left on the disk", MachineError.exit_status)
        traceback.print_exc()
        return _fail(f"a fault of bertpress: {type(error).__name__}: {error}", 1)


def _fail(message: str, status: int) -> int:
    say("error: " + " ".join(message.split()))
    return status
