"""ONNX Runtime on the CPU: integers run as integers, everything else in float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bertpress.engines.base import INPUTS, Array, Halves, checked_threads, exported_file, inputs_of
from bertpress.errors import EngineError

ERRORS_ONLY = 3


class Graph:
    """One loaded graph.

    Args:
        path: of the ``.onnx``.
        threads: None: all cores.
    """

    def __init__(self, path: Path, threads: int | None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise EngineError("engine onnxruntime: not installed; pip install 'bertpress[onnx]'") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = threads or 0  # 0: all cores
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no base class but this
            reason = " ".join(str(error).split())[:200]
            raise EngineError(f"{path}: ONNX Runtime cannot load it ({reason})") from None
        self._inputs = tuple(port.name for port in self._session.get_inputs())

    def __call__(self, arrays: Mapping[str, Array]) -> Array:
        """The output for the inputs that it has."""
        return np.asarray(self._session.run(None, {name: arrays[name] for name in self._inputs})[0], dtype=np.float32)


class OnnxRuntime:
    """Runs ``onnx/model.onnx``."""

    name: ClassVar[str] = "onnxruntime"

    def __init__(self, path: Path, threads: int | None) -> None:
        self._path, self._graph = path, Graph(path, threads)

    @classmethod
    def load(cls, folder: Path, threads: int | None = None) -> OnnxRuntime:
        """See :class:`bertpress.engines.base.Engine`."""
        return cls(exported_file(folder, "onnx", "model.onnx"), checked_threads(threads))

    def logits(self, batch: Mapping[str, Any]) -> Array:
        """See :class:`bertpress.engines.base.Engine`."""
        return self._graph(inputs_of(batch, INPUTS))

    def file_bytes(self) -> int:
        """The graph, and its weights where they lie beside it."""
        beside = self._path.with_name(f"{self._path.name}.data")
        return self._path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)


def load_halves(folder: Path, threads: int | None = None) -> Halves:
    """See :func:`bertpress.engines.load_halves`."""
    names = ("lower.onnx", "upper.onnx", "model.onnx.data")
    lower, upper, weights = (exported_file(folder, "onnx", name) for name in names)
    threads = checked_threads(threads)
    return Halves(Graph(lower, threads), Graph(upper, threads), (lower, upper, weights))


EngineClass = OnnxRuntime
