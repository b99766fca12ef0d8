"""PyTorch, eager, float32: an int8 artifact is simulated here, on its own grid."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from bertpress import artifact  # noqa: F401  (teaches from_pretrained to read packed weights)
from bertpress.encoder.halves import Lower, Upper, uncacheable
from bertpress.encoder.imports import load_pretrained
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.engines.base import INPUTS, Array, Halves, checked_threads, inputs_of
from bertpress.errors import EngineError


class Torch:
    """Runs ``model.safetensors``, of an artifact or a plain transformers folder."""

    name: ClassVar[str] = "torch"

    def __init__(self, model: BertpressPreTrainedModel, files: list[Path], threads: int | None) -> None:
        self.model, self.files = model.eval(), files
        self._threads = threads or torch.get_num_threads()
        self._inputs = INPUTS if model.blueprint.reads_segments else INPUTS[:2]

    @classmethod
    def load(cls, folder: Path, threads: int | None = None) -> Torch:
        """See :class:`bertpress.engines.base.Engine`."""
        threads = checked_threads(threads)
        if not folder.is_dir():
            raise EngineError(f"{folder}: no such folder")
        files = sorted(folder.glob("*.safetensors"))
        return cls(load_pretrained(folder).model, files, threads)

    def logits(self, batch: Mapping[str, Any]) -> Array:
        """See :class:`bertpress.engines.base.Engine`."""
        self.take_threads()
        inputs = {name: torch.from_numpy(array) for name, array in inputs_of(batch, self._inputs).items()}
        with torch.inference_mode():
            out = self.model(**inputs)
        found = next(x for x in (out.logits, out.pooler_output, out.last_hidden_state) if x is not None)
        return np.asarray(found.numpy(), dtype=np.float32)

    def take_threads(self) -> None:
        """Set the number of threads, which belongs to the process: another engine may have set its own."""
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)

    def file_bytes(self) -> int:
        """The weights."""
        return sum(path.stat().st_size for path in self.files)


def load_halves(folder: Path, threads: int | None = None) -> Halves:
    """See :func:`bertpress.engines.load_halves`."""
    engine = Torch.load(folder, threads)
    model = engine.model
    if (reason := uncacheable(model.blueprint)) is not None:
        raise EngineError(f"{folder}: {reason}")

    def run(half: Lower | Upper, arrays: Mapping[str, Array]) -> Array:
        engine.take_threads()
        with torch.inference_mode():
            found = half(*(torch.from_numpy(arrays[name]) for name in half.inputs))
        return np.asarray(found.numpy(), dtype=np.float32)

    return Halves(partial(run, Lower(model)), partial(run, Upper(model)), engine.files)


EngineClass = Torch
