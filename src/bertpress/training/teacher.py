"""The frozen model that a student learns from: run live, or its logits read from a cache on disk.

With its logits cached, an epoch of distillation costs about as much as one of plain fine-tuning.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from bertpress.training.cache import Floats, LogitsCache
from bertpress.training.precision import autocast, in_float32, resolve_dtype

_log = logging.getLogger(__name__)
_PREFIX = "teacher_"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of every tensor of a model, with its name, and of its configuration."""
    digest = hashlib.sha256()
    blueprint = getattr(model, "blueprint", None)
    digest.update((blueprint.model_dump_json() if blueprint is not None else type(model).__name__).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def model_inputs(batch: dict[str, Tensor], *, teacher: bool = False) -> dict[str, Tensor]:
    """What a model reads of a batch; a teacher with a tokenizer of its own has ``teacher_*`` inputs."""
    prefix = _PREFIX if teacher and f"{_PREFIX}input_ids" in batch else ""
    return {name: batch[prefix + name] for name in INPUTS if prefix + name in batch}


class Teacher:
    """A model in eval mode whose weights are never touched.

    Args:
        model: the trained model.
        cache: folder for caches of its logits; None: always run the model.
        cache_bytes: a cache that would be larger is not made, and the model runs live.
        answer: gives the logits, from the model's output and the batch, in place of the model's own.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        cache: Path | None = None,
        cache_bytes: int = 2 * 2**30,
        answer: nn.Module | None = None,
    ) -> None:
        self.model, self.folder, self.cache_bytes, self.answer = model, cache, cache_bytes, answer
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.cache: LogitsCache | None = None
        self._digest: str | None = None

    @property
    def digest(self) -> str:
        """Content hash of the weights, computed once."""
        if self._digest is None:
            self._digest = weights_digest(self.model)
            if self.answer is not None:
                self._digest += weights_digest(self.answer)
        return self._digest

    def place(self, device: torch.device, precision: Any = "auto") -> None:
        """Move the model to ``device`` and choose the arithmetic of its matrix products."""
        self.model.to(device)
        if self.answer is not None:
            self.answer.to(device)
        self.device, self.dtype = device, resolve_dtype(precision, device)

    def prepare(
        self,
        data: Any,
        rows: Sequence[int],
        collate: Callable[[list[Any]], dict[str, Tensor]],
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> bool:
        """Have the logits of ``rows`` of ``data`` in a cache, if there is a folder and they fit.

        Returns:
            Whether later calls read the cache.
        """
        self.cache = None
        if self.folder is None or not self._constant(data):
            return False
        cache = LogitsCache(self.folder, f"{self.digest} {self.dtype}", data, rows)
        if cache.fill(
            lambda part: self._logits([data[i] for i in part], collate), cap_bytes=self.cache_bytes, report=report
        ):
            self.cache = cache
        else:
            _log.info("%s bytes of teacher logits exceed %s; the teacher runs live", cache.size_bytes, self.cache_bytes)
        return self.cache is not None

    def __call__(self, batch: dict[str, Tensor], captures: frozenset[str] = frozenset()) -> Any:
        """The output for a batch, in float32 and without gradient; from the cache if logits are all that is asked."""
        if self.cache is None or captures:
            return self._run(batch, captures)
        logits = torch.from_numpy(self.cache.read(batch["index"].tolist(), batch["input_ids"].shape[1]))
        return with_spans(ModelOutput(logits=logits.to(self.device)))

    def _constant(self, data: Any) -> bool:
        """Whether an example always has the same logits, one row for each of the student's tokens."""
        if self.answer is not None or getattr(data, "masking", None) is not None:  # masks are drawn anew each epoch
            return False
        head = getattr(getattr(self.model, "blueprint", None), "head", None)
        return f"{_PREFIX}input_ids" not in data[0] or (head is not None and head.kind in ("sequence", "embedding"))

    def _run(self, batch: dict[str, Tensor], captures: frozenset[str]) -> Any:
        self.model.eval()
        asked = {"capture": captures} if captures else {}
        with torch.no_grad(), autocast(self.dtype, self.device):
            output = self.model(**model_inputs(batch, teacher=True), **asked)
            if self.answer is not None:
                output.logits = self.answer(output, batch)
            return in_float32(output)

    def _logits(self, items: list[Any], collate: Callable[[list[Any]], dict[str, Tensor]]) -> list[Floats]:
        batch = {name: value.to(self.device) for name, value in collate(items).items()}
        logits: Floats = self._run(batch, frozenset())["logits"].cpu().numpy()
        by_token = logits.ndim == 3
        return [np.ascontiguousarray(row[: len(item["input_ids"])] if by_token else row)
                for row, item in zip(logits, items, strict=True)]  # fmt: skip


def with_spans(output: Any) -> Any:
    """Add ``start_logits`` and ``end_logits`` where the logits are those of answer spans, (batch, tokens, 2)."""
    logits = output["logits"]
    if logits.ndim == 3 and logits.shape[-1] == 2:
        output["start_logits"], output["end_logits"] = logits[..., 0], logits[..., 1]
    return output
