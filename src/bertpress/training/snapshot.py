"""Everything that the next step depends on, taken down and put back."""

import time
from typing import Any

import torch

from bertpress.errors import UserError
from bertpress.training import distributed

_LONGEST_GAP = 50.0  # seconds; at most a minute is ever redone


class Snapshot:
    """The state of a trainer as the content of a checkpoint.

    The random generators are not in it, as they are seeded anew at each step.  A callback takes part if it has
    ``state_dict()`` and ``load_state_dict(state)``.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.write_seconds = 0.0

    def due(self, written: float) -> bool:
        """Whether a checkpoint is due when the last was written at ``written``: rarer where writing takes long."""
        rarer = min(12 * self.write_seconds, _LONGEST_GAP - self.write_seconds)
        return time.monotonic() - written >= max(float(self.trainer.settings.checkpoint_seconds), rarer)

    def write(self, step: int) -> None:
        """Write the state after ``step`` updates."""
        began = time.monotonic()
        distributed.by_first(lambda: self.trainer.checkpoints.save(step, self.content(step)))
        self.write_seconds = time.monotonic() - began

    def content(self, step: int) -> dict[str, Any]:
        """The state after ``step`` updates: tensors and plain values."""
        trainer = self.trainer
        return {
            "step": step,
            "total": trainer.plan.total,
            "run": trainer.identity,
            "threads": torch.get_num_threads(),
            "model": trainer.model.state_dict(),
            "extra": trainer.extra.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "callbacks": [
                [_kind(callback), callback.state_dict() if hasattr(callback, "state_dict") else None]
                for callback in trainer.methods
            ],
            "record": trainer.record.state_dict(trainer.seconds()),
            "selection": [trainer.selection.best, trainer.selection.step],
            "log_history": trainer.state.log_history,
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Make the trainer what it was.

        Raises:
            UserError: the model, the optimizer or the callbacks are others than those of the checkpoint.
        """
        trainer, where = self.trainer, self.trainer.checkpoints.folder
        kinds = [_kind(callback) for callback in trainer.methods]
        if kinds != [kind for kind, _ in content["callbacks"]]:
            raise UserError(f"{where}: the checkpoint has other callbacks than {kinds}")
        try:
            trainer.model.load_state_dict(content["model"])
            trainer.extra.load_state_dict(content["extra"])
            trainer.optimizer.load_state_dict(content["optimizer"])
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{where}: the checkpoint does not fit the model: {reason}") from error
        for callback, (_, state) in zip(trainer.methods, content["callbacks"], strict=True):
            if state is not None:
                callback.load_state_dict(state)
        trainer.record.load_state_dict(content["record"], trainer.args.device)
        trainer.selection.best, trainer.selection.step = content["selection"]
        trainer.state.log_history = list(content["log_history"])
        trainer.resume_schedule(int(content["step"]))


def _kind(callback: Any) -> str:
    return f"{type(callback).__module__}.{type(callback).__qualname__}"
