"""Engines run a model folder: PyTorch, ONNX Runtime, OpenVINO, behind one protocol.

Importing this package imports none of them, so that a process that measures one holds only that one in memory.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from bertpress.engines.base import Engine, Halves
from bertpress.errors import EngineError

__all__ = ["NAMES", "Engine", "Halves", "available", "load_engine", "load_halves"]

NAMES = ("torch", "onnxruntime", "openvino")


def available() -> list[str]:
    """Names of the engines whose package is installed."""
    return [name for name in NAMES if find_spec(name) is not None]


def load_engine(name: str, folder: str | Path, threads: int | None = None) -> Engine:
    """Load a model folder on an engine.

    Args:
        name: one of :data:`NAMES`.
        folder: of an artifact; ``torch`` runs plain transformers folders too.
        threads: None: all cores.

    Raises:
        EngineError: no such engine, its package is missing, or the folder has no file for it.
    """
    engine: type[Engine] = _module(name).EngineClass
    return engine.load(Path(folder), threads)


def load_halves(name: str, folder: str | Path, threads: int | None = None) -> Halves:
    """The same for a model whose lower layers read the two texts apart, as its two halves.

    Raises:
        EngineError: as there, or the model is none of these.
    """
    found: Halves = _module(name).load_halves(Path(folder), threads)
    return found


def _module(name: str) -> ModuleType:
    if name not in NAMES:
        raise EngineError(f"engine={name} must be one of {', '.join(NAMES)}")
    return import_module(f"bertpress.engines.{name}")
