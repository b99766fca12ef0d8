"""What is written down while training: losses, pace, and which weights were the best."""

import math
from typing import Any

import torch
from torch import Tensor

from bertpress import tasks
from bertpress.errors import UserError
from bertpress.training import evaluation


class Record:
    """Sums losses between two points of the training curve, without a synchronisation of the device in between.

    Attributes:
        log: the points so far.
        examples: examples so far, over all processes.
        seconds_before: time spent in earlier processes that were interrupted.
        last_loss: mean loss at the last point.
    """

    def __init__(self) -> None:
        self.log: list[dict[str, Any]] = []
        self.examples = 0
        self.seconds_before = 0.0
        self.last_loss = 0.0
        self._sums: dict[str, Tensor] = {}
        self._norm: Tensor | None = None
        self._shares: dict[str, float] = {}  # updates that each sum is of
        self._since = (0, 0.0)  # examples and seconds at the last point

    def add(self, loss: Tensor, terms: dict[str, Tensor], share: float) -> None:
        """Add one batch, which is ``share`` of an update's examples."""
        for name, value in (("", loss), *terms.items()):
            value = value.float() * share
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._shares[name] = self._shares.get(name, 0.0) + share

    def add_norm(self, norm: Tensor) -> None:
        """Add the norm of an update's gradient."""
        self._norm = norm

    def not_finite(self) -> str | None:
        """What is no longer a number: ``loss=nan``; None while all is well."""
        loss = float(self._sums[""]) if self._sums else self.last_loss
        if not math.isfinite(loss):
            return f"loss={loss}"
        norm = float(self._norm) if self._norm is not None else 0.0
        return None if math.isfinite(norm) else f"gradient norm={norm}"

    def close(self, step: int, epoch: float, learning_rate: float, seconds: float) -> dict[str, Any]:
        """Put a point into the log: means since the last one, each over the updates that have the term."""
        means = {name: float(value) / self._shares[name] for name, value in self._sums.items()}
        self.last_loss = means.pop("", 0.0)
        examples, before = self._since
        entry = {
            "step": step,
            "epoch": epoch,
            "loss": self.last_loss,
            "terms": means,
            "learning_rate": learning_rate,
            "gradient_norm": float(self._norm) if self._norm is not None else 0.0,
            "examples_per_second": (self.examples - examples) / max(seconds - before, 1e-9),
            "seconds": seconds,
        }
        self.log.append(entry)
        self._sums, self._shares, self._since = {}, {}, (self.examples, seconds)
        return entry

    def state_dict(self, seconds: float) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        return {
            "log": self.log, "examples": self.examples, "seconds": seconds, "last_loss": self.last_loss,
            "sums": dict(self._sums), "norm": self._norm, "shares": dict(self._shares), "since": list(self._since),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from a checkpoint."""
        self.log, self.examples, self.last_loss = list(state["log"]), state["examples"], state["last_loss"]
        self.seconds_before = state["seconds"]
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._norm = None if state["norm"] is None else state["norm"].to(device)
        self._shares = dict(state["shares"])
        self._since = (state["since"][0], state["since"][1])


class Selection:
    """Remembers the weights with the best validation metric; of equals the earlier."""

    def __init__(self) -> None:
        self.best: float | None = None
        self.step: int | None = None

    def look(self, trainer: Any, step: int) -> float:
        """Evaluate, and keep the weights if they are the best so far."""
        value = evaluation.metric_value(
            trainer.model,
            trainer.task,
            trainer.validation,
            trainer.collate,
            precision=trainer.settings.precision,
            metric=trainer.metric,
        )
        known = tasks.metrics_for(trainer.task)[trainer.task.metric]
        sign = 1 if trainer.metric is not None or known.higher_is_better else -1
        if self.best is None or sign * value > sign * self.best:
            self.best, self.step = value, step
            if trainer.settings.select == "best" and trainer.is_world_process_zero():
                trainer.checkpoints.save_best({"model": trainer.model.state_dict(), "step": step})
        return value

    def put_back(self, trainer: Any) -> None:
        """Load the best weights into the model.

        Raises:
            UserError: they are gone.
        """
        content = trainer.checkpoints.best()
        if content is None or content["step"] != self.step:
            raise UserError(f"{trainer.checkpoints.best_path}: the best weights (step {self.step}) are not there")
        trainer.model.load_state_dict(content["model"])
