"""OpenVINO on the CPU: integers run as integers, everything else in float32, so that answers agree."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bertpress.engines.base import INPUTS, STATES, Array, bytes_of, checked_threads, exported_file, inputs_of
from bertpress.errors import EngineError
from bertpress.untold import untold


class OpenVINO:
    """Runs ``openvino/model.xml``, or a part of it."""

    name: ClassVar[str] = "openvino"

    def __init__(self, path: Path, threads: int | None) -> None:
        try:
            with untold():
                import openvino
        except ImportError:
            raise EngineError("engine openvino: not installed; pip install 'bertpress[openvino]'") from None
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # bfloat16, and integers made up at run time, would be the default on processors that are good at them:
            # as fast for a quantized model, and its answers would no longer be those of the artifact
            "INFERENCE_PRECISION_HINT": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        }
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        self._tensor, self._core, self._settings = openvino.Tensor, openvino.Core(), settings
        self.files: tuple[Path, ...] = (path, path.with_name("model.bin"))  # which all parts read
        with path.open("rb") as file:
            if not file.read(64).lstrip().startswith(b"<?xml"):  # else OpenVINO loads a reader for every other format
                raise EngineError(f"{path}: OpenVINO cannot load it (it is no XML)")
        self._compiled = self._compile()
        known = {port.any_name for port in self._compiled.inputs}
        self.inputs = tuple(name for name in (*INPUTS, STATES) if name in known)
        self._request, self._turn = self._compiled.create_infer_request(), threading.Lock()
        self._fixed: dict[int, Any] = {}

    def _compile(self, length: int | None = None) -> Any:
        """The graph of any shape, or that of one row of so many tokens."""
        path = self.files[0]
        try:
            with same_signal_stack():
                if length is None and path.stem == "model":
                    return self._core.compile_model(path, "CPU", self._settings)
                graph = self._core.read_model(*self.files)
                if length is not None:
                    shapes = ((port.any_name, port.partial_shape) for port in graph.inputs)
                    graph.reshape({name: [1, length, *list(shape)[2:]] for name, shape in shapes})
                return self._core.compile_model(graph, "CPU", self._settings)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            raise EngineError(f"{path}: OpenVINO cannot load it ({reason})") from None

    def fix(self, length: int) -> None:
        """See :class:`bertpress.engines.lengths.Fixable`."""
        self._fixed[length] = self._compile(length).create_infer_request()

    @classmethod
    def load(cls, folder: Path, threads: int | None = None) -> OpenVINO:
        """See :class:`bertpress.engines.base.Loader`."""
        return cls(exported_file(folder, "openvino", "model.xml"), checked_threads(threads))

    @classmethod
    def load_parts(cls, folder: Path, names: Sequence[str], threads: int | None = None) -> list[OpenVINO]:
        """See :class:`bertpress.engines.base.Loader`."""
        return [cls(exported_file(folder, "openvino", f"{name}.xml"), checked_threads(threads)) for name in names]

    def run(self, arrays: Mapping[str, Array]) -> list[Array]:
        """See :class:`bertpress.engines.base.Part`."""
        rows, tokens = arrays[self.inputs[0]].shape[:2]
        request = self._fixed.get(tokens, self._request) if rows == 1 else self._request
        with self._turn:
            for name in self.inputs:
                request.set_tensor(name, self._tensor(arrays[name], shared_memory=True))
            request.infer()
            return [np.array(tensor.data, dtype=np.float32) for tensor in request.output_tensors]

    def logits(self, batch: Mapping[str, Any]) -> Array:
        """See :class:`bertpress.engines.base.Engine`."""
        return self.run(inputs_of(batch, self.inputs))[0]

    def file_bytes(self) -> int:
        """The graph and its weights."""
        return bytes_of(self)


EngineClass = OpenVINO


class _SignalStack(ctypes.Structure):
    _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("bytes", ctypes.c_size_t))


@contextmanager
def same_signal_stack() -> Iterator[None]:
    """Give the thread its alternate signal stack back.

    On Linux a model that is compiled installs one of its own and, when it goes, puts back the one that it found: of two
    models that do not go in reverse order the later one puts back memory that is gone, and the next Ctrl-C ends in a
    segmentation fault.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    libc, before = ctypes.CDLL(None), _SignalStack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
