"""OpenVINO on the CPU: integers run as integers, everything else in float32, so that answers agree."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bertpress.engines.base import INPUTS, Array, Halves, checked_threads, exported_file, inputs_of
from bertpress.errors import EngineError


class Graph:
    """One compiled graph.

    Args:
        path: of the ``.xml``.
        threads: None: all cores.
        weights: where they do not lie beside it under its own name.
    """

    def __init__(self, path: Path, threads: int | None, weights: Path | None = None) -> None:
        try:
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
        self._tensor = openvino.Tensor
        with path.open("rb") as file:
            if not file.read(64).lstrip().startswith(b"<?xml"):  # else OpenVINO loads a reader for every other format
                raise EngineError(f"{path}: OpenVINO cannot load it (it is no XML)")
        core = openvino.Core()
        try:
            with same_signal_stack():
                self._compiled = core.compile_model(
                    core.read_model(path, weights) if weights else path, "CPU", settings
                )
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            raise EngineError(f"{path}: OpenVINO cannot load it ({reason})") from None
        self._inputs = tuple(port.any_name for port in self._compiled.inputs)
        self._request = self._compiled.create_infer_request()

    def __call__(self, arrays: Mapping[str, Array]) -> Array:
        """The output for the inputs that it has."""
        for name in self._inputs:
            self._request.set_tensor(name, self._tensor(arrays[name], shared_memory=True))
        self._request.infer()
        return np.array(self._request.get_output_tensor(0).data, dtype=np.float32)


class OpenVINO:
    """Runs ``openvino/model.xml``."""

    name: ClassVar[str] = "openvino"

    def __init__(self, path: Path, threads: int | None) -> None:
        self._path, self._graph = path, Graph(path, threads)

    @classmethod
    def load(cls, folder: Path, threads: int | None = None) -> OpenVINO:
        """See :class:`bertpress.engines.base.Engine`."""
        return cls(exported_file(folder, "openvino", "model.xml"), checked_threads(threads))

    def logits(self, batch: Mapping[str, Any]) -> Array:
        """See :class:`bertpress.engines.base.Engine`."""
        return self._graph(inputs_of(batch, INPUTS))

    def file_bytes(self) -> int:
        """The graph and its weights."""
        return self._path.stat().st_size + self._path.with_suffix(".bin").stat().st_size


def load_halves(folder: Path, threads: int | None = None) -> Halves:
    """See :func:`bertpress.engines.load_halves`."""
    names = ("lower.xml", "upper.xml", "model.bin")
    lower, upper, weights = (exported_file(folder, "openvino", name) for name in names)
    threads = checked_threads(threads)
    return Halves(Graph(lower, threads, weights), Graph(upper, threads, weights), (lower, upper, weights))


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
