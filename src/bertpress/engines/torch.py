"""PyTorch, eager, float32: an int8 artifact is simulated here, on its own grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from bertpress import artifact  # noqa: F401  (teaches from_pretrained to read packed weights)
from bertpress.encoder.halves import uncacheable
from bertpress.encoder.imports import load_pretrained
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.encoder.segments import input_names, parts
from bertpress.engines.base import Array, bytes_of, checked_threads, inputs_of
from bertpress.errors import EngineError


class Torch:
    """Runs ``model.safetensors``, of an artifact or a plain transformers folder."""

    name: ClassVar[str] = "torch"

    def __init__(self, model: BertpressPreTrainedModel, files: list[Path], threads: int | None) -> None:
        self.model, self.files = model.eval(), tuple(files)
        self._threads = threads or torch.get_num_threads()
        self.inputs = input_names(model.blueprint)

    @classmethod
    def load(cls, folder: Path, threads: int | None = None) -> Torch:
        """See :class:`bertpress.engines.base.Loader`."""
        threads = checked_threads(threads)
        if not folder.is_dir():
            raise EngineError(f"{folder}: no such folder")
        files = sorted(folder.glob("*.safetensors"))
        return cls(load_pretrained(folder).model, files, threads)

    @classmethod
    def load_parts(cls, folder: Path, names: Sequence[str], threads: int | None = None) -> list[TorchPart]:
        """See :class:`bertpress.engines.base.Loader`."""
        whole = cls.load(folder, threads)
        found = parts(whole.model)
        if missing := [name for name in names if name not in found]:
            raise EngineError(f"{folder}: has no part {missing[0]}: {uncacheable(whole.model.blueprint)}")
        return [TorchPart(whole, found[name].eval(), found[name].inputs) for name in names]

    def run(self, arrays: Mapping[str, Array]) -> list[Array]:
        """See :class:`bertpress.engines.base.Part`."""
        return [self.logits(arrays)]

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
        return bytes_of(self)


class TorchPart:
    """A part of a model."""

    def __init__(self, whole: Torch, module: nn.Module, inputs: tuple[str, ...]) -> None:
        self._whole, self._module = whole, module
        self.inputs, self.files = inputs, whole.files

    def run(self, arrays: Mapping[str, Array]) -> list[Array]:
        """See :class:`bertpress.engines.base.Part`."""
        with self._whole.computing():
            found = self._module(*(torch.from_numpy(arrays[name]) for name in self.inputs))
        return [np.asarray(out.numpy(), np.float32) for out in (found if isinstance(found, tuple) else (found,))]


EngineClass = Torch
