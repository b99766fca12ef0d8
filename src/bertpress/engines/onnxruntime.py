"""ONNX Runtime on the CPU: integers run as integers, everything else in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bertpress.engines.base import INPUTS, STATES, Array, bytes_of, checked_threads, exported_file, inputs_of
from bertpress.errors import EngineError

ERRORS_ONLY = 3


class OnnxRuntime:
    """Runs ``onnx/model.onnx``, or a part of it."""

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
        beside = path.with_name("model.onnx.data")
        self.files: tuple[Path, ...] = (path, beside) if beside.is_file() else (path,)
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no base class but this
            reason = " ".join(str(error).split())[:200]
            raise EngineError(f"{path}: ONNX Runtime cannot load it ({reason})") from None
        known = {port.name for port in self._session.get_inputs()}
        self.inputs = tuple(name for name in (*INPUTS, STATES) if name in known)

    @classmethod
    def load(cls, folder: Path, threads: int | None = None) -> OnnxRuntime:
        """See :class:`bertpress.engines.base.Loader`."""
        return cls(exported_file(folder, "onnx", "model.onnx"), checked_threads(threads))

    @classmethod
    def load_parts(cls, folder: Path, names: Sequence[str], threads: int | None = None) -> list[OnnxRuntime]:
        """See :class:`bertpress.engines.base.Loader`."""
        return [cls(exported_file(folder, "onnx", f"{name}.onnx"), checked_threads(threads)) for name in names]

    def run(self, arrays: Mapping[str, Array]) -> list[Array]:
        """See :class:`bertpress.engines.base.Part`."""
        return [np.asarray(out, np.float32) for out in self._session.run(None, {n: arrays[n] for n in self.inputs})]

    def logits(self, batch: Mapping[str, Any]) -> Array:
        """See :class:`bertpress.engines.base.Engine`."""
        return self.run(inputs_of(batch, self.inputs))[0]

    def file_bytes(self) -> int:
        """The graph, and its weights where they lie beside it."""
        return bytes_of(self)


EngineClass = OnnxRuntime
