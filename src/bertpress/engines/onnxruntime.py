"""ONNX Runtime on the CPU: integers run as integers, everything else in float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bertpress.engines.base import INPUTS, Array, checked_threads, exported_file, inputs_of
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
        self._inputs = tuple(name for name in INPUTS if name in known)

    @classmethod
    def load(cls, folder: Path, threads: int | None = None) -> OnnxRuntime:
        """See :class:`bertpress.engines.base.Engine`."""
        return cls(exported_file(folder, "onnx", "model.onnx"), checked_threads(threads))

    def logits(self, batch: Mapping[str, Any]) -> Array:
        """See :class:`bertpress.engines.base.Engine`."""
        return np.asarray(self._session.run(None, inputs_of(batch, self._inputs))[0], dtype=np.float32)

    def file_bytes(self) -> int:
        """The graph, and its weights where they lie beside it."""
        beside = self._path.with_name(f"{self._path.name}.data")
        return self._path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)


EngineClass = OnnxRuntime
