"""PyTorch, eager, float32: an int8 artifact is simulated here, on its own grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from bertpress import artifact  # noqa: F401  (teaches from_pretrained to read packed weights)
from bertpress.encoder.imports import load_pretrained
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.encoder.segments import Segment, segments
from bertpress.engines.base import INPUTS, Array, checked_threads, inputs_of
from bertpress.errors import EngineError


class Torch:
    """Runs ``model.safetensors``, of an artifact or a plain transformers folder."""

    name: ClassVar[str] = "torch"

    def __init__(self, model: BertpressPreTrainedModel, files: list[Path], threads: int | None) -> None:
        self.model, self._files = model.eval(), files
        self._threads = threads or torch.get_num_threads()
        self.inputs = INPUTS if model.blueprint.embeddings.segments > 1 else INPUTS[:2]

    @classmethod
    def load(cls, folder: Path, threads: int | None = None) -> Torch:
        """See :class:`bertpress.engines.base.Loader`."""
        threads = checked_threads(threads)
        if not folder.is_dir():
            raise EngineError(f"{folder}: no such folder")
        files = sorted(folder.glob("*.safetensors"))
        return cls(load_pretrained(folder).model, files, threads)

    @classmethod
    def load_parts(cls, folder: Path, threads: int | None = None) -> list[TorchSegment]:
        """See :class:`bertpress.engines.base.Loader`."""
        whole = cls.load(folder, threads)
        return [TorchSegment(whole, segment.eval()) for segment in segments(whole.model)]

    def logits(self, batch: Mapping[str, Any]) -> Array:
        """See :class:`bertpress.engines.base.Engine`."""
        inputs = {name: torch.from_numpy(array) for name, array in inputs_of(batch, self.inputs).items()}
        with self.computing():
            out = self.model(**inputs)
        found = next(x for x in (out.logits, out.pooler_output, out.last_hidden_state) if x is not None)
        return np.asarray(found.numpy(), dtype=np.float32)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """A block that infers on the threads of this engine."""
        if torch.get_num_threads() != self._threads:  # the setting belongs to the process: another engine may have it
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            yield

    def file_bytes(self) -> int:
        """The weights."""
        return sum(path.stat().st_size for path in self._files)


class TorchSegment:
    """A segment of a model; the first one counts the file."""

    def __init__(self, whole: Torch, segment: Segment) -> None:
        self._whole, self._segment = whole, segment
        self.inputs = segment.inputs

    def run(self, arrays: Mapping[str, Array]) -> list[Array]:
        """See :class:`bertpress.engines.base.Part`."""
        with self._whole.computing():
            found = self._segment(*(torch.from_numpy(arrays[name]) for name in self.inputs))
        return [out.numpy() for out in found]

    def file_bytes(self) -> int:
        """The weights, which all segments share."""
        return 0 if self._segment.embeddings is None else self._whole.file_bytes()


EngineClass = Torch
