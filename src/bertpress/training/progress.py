"""How far training is and how long it takes yet, on stderr: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

Style = Literal["auto", "bar", "lines", "none"]
_LINE_SECONDS = 30.0


class Meter:
    """Counts towards a total, in one of the styles; also used as a context manager."""

    def __init__(self, label: str, style: Style = "auto") -> None:
        self.label, self.style = label, style
        if style == "auto":
            self.style = "bar" if sys.stderr.isatty() else "lines"
        self.total, self.done, self.note = 0, 0, ""
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._begun = self._said = time.monotonic()
        self._begun_at = 0

    def start(self, total: int, done: int = 0) -> None:
        """Begin (again) at ``done`` of ``total``."""
        self.stop()
        self.total, self.done, self._begun_at = total, done, done
        self._begun = self._said = time.monotonic()
        if self.style == "bar":
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
                       TimeRemainingColumn(), TextColumn("{task.fields[note]}"))  # fmt: skip
            self._bar = Progress(*columns, console=Console(stderr=True), refresh_per_second=2, transient=True)
            self._task = self._bar.add_task(self.label, total=total, completed=done, note="")
            self._bar.start()

    def show(self, done: int, total: int | None = None, note: str | None = None) -> None:
        """Show a new state; cheap enough for every step."""
        self.done, self.total = done, total or self.total
        self.note = note if note is not None else self.note
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=self.total, note=self.note)
        elif self.style == "lines" and time.monotonic() - self._said >= _LINE_SECONDS:
            self._said = time.monotonic()
            left = f"{self.seconds_left():.0f} s left"
            print(f"{self.label}: {done}/{self.total}, {left}  {self.note}".rstrip(), file=sys.stderr, flush=True)  # noqa: T201

    def advance(self, done: int, total: int) -> None:
        """For callers that learn the total on the way: begin at the first call, take the bar away at the last."""
        if self.total != total:
            self.start(total)
        self.show(done, total)
        if done >= total:
            self.stop()

    def seconds_left(self) -> float:
        """Estimate from the pace so far."""
        pace = (time.monotonic() - self._begun) / max(1, self.done - self._begun_at)
        return pace * (self.total - self.done)

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class ProgressDisplay(TrainerCallback):  # type: ignore[misc]
    """Shows a :class:`Meter` while a Trainer runs."""

    def __init__(self, label: str, style: Style) -> None:
        self.meter = Meter(label, style)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start where the run goes on."""
        if state.is_world_process_zero:
            self.meter.start(state.max_steps, state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Advance."""
        if state.is_world_process_zero:
            self.meter.show(state.global_step, state.max_steps)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Show loss and pace beside the bar."""
        if logs and "loss" in logs and state.is_world_process_zero:
            self.meter.note = f"loss {logs['loss']:.4f}, {logs.get('examples_per_second', 0):.0f} examples/s"

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take the bar away."""
        self.meter.stop()
