"""ONNX Runtime on the CPU: integers run as integers, everything else in float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bertpress.engines.base import INPUTS, SEGMENT, Array, checked_threads, exported_file, inputs_of, segment_files
from bertpress.errors import EngineError

ERRORS_ONLY = 3


class OnnxRuntime:
    """Runs ``onnx/model.onnx``."""

    name: ClassVar[str] = "onnxruntime"

    def __init__(self, path: Path, threads: int | None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise EngineError("engine onnxruntime: not installed; pip install 'bertpress[onnx]'") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = threads or 0  # 0: all cores
        self._path = path
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no base class but this
            reason = " ".join(str(error).split())[:200]
            raise EngineError(f"{path}: ONNX Runtime cannot load it ({reason})") from None
        known = {port.name for port in self._session.get_inputs()}
        self.inputs = tuple(name for name in (*INPUTS, "hidden") if name in known)

    @classmethod
    def load(cls, folder: Path, threads: int | None = None) -> OnnxRuntime:
        """See :class:`bertpress.engines.base.Loader`."""
        return cls(exported_file(folder, "onnx", "model.onnx"), checked_threads(threads))

    @classmethod
    def load_parts(cls, folder: Path, threads: int | None = None) -> list[OnnxRuntime]:
        """See :class:`bertpress.engines.base.Loader`."""
        return [cls(path, checked_threads(threads)) for path in segment_files(folder, "onnx", ".onnx")]

    def run(self, arrays: Mapping[str, Array]) -> list[Array]:
        """See :class:`bertpress.engines.base.Part`."""
        return [np.asarray(out, np.float32) for out in self._session.run(None, {n: arrays[n] for n in self.inputs})]

    def logits(self, batch: Mapping[str, Any]) -> Array:
        """See :class:`bertpress.engines.base.Engine`."""
        return self.run(inputs_of(batch, self.inputs))[0]

    def file_bytes(self) -> int:
        """The graph, and its weights where they lie beside it; those that segments share count with the first."""
        beside = self._path.with_name("model.onnx.data")
        counts = self._path.stem in ("model", SEGMENT.format(0)) and beside.is_file()
        return self._path.stat().st_size + (beside.stat().st_size if counts else 0)


EngineClass = OnnxRuntime
