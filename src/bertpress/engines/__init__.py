"""Engines run a model folder: PyTorch, ONNX Runtime, OpenVINO, behind one protocol.

Importing this package imports none of them, so that a process that measures one holds only that one in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from bertpress.encoder.exit_specs import SEGMENT
from bertpress.engines.base import Engine, Halves, Loader
from bertpress.engines.lengths import with_lengths
from bertpress.engines.pace import Speed, keeping, understood
from bertpress.engines.staged import Staged, blueprint_of, own_speed
from bertpress.errors import EngineError

__all__ = ["NAMES", "Engine", "Halves", "Speed", "available", "load_engine", "load_halves"]

NAMES = ("torch", "onnxruntime", "openvino")


def available() -> list[str]:
    """Names of the engines whose package is installed."""
    return [name for name in NAMES if find_spec(name) is not None]


def load_engine(
    name: str,
    folder: str | Path,
    threads: int | None = None,
    speed: Speed | None = None,
    lengths: Sequence[int] = (),
) -> Engine:
    """Load a model folder on an engine.

    Args:
        name: one of :data:`NAMES`.
        folder: of an artifact; ``torch`` runs plain transformers folders too.
        threads: None: all cores.
        speed: of a model with early exits, 0 (all layers) to 1 (out at the first exit that the rule allows), or a mean
            time such as ``"1.5ms"``, see :mod:`bertpress.engines.pace`; None: the artifact's own.
        lengths: a single text is padded to the next of these numbers of tokens, each of which has a graph of its own,
            on openvino; see :mod:`bertpress.engines.lengths`.

    Raises:
        EngineError: no such engine, its package is missing, or the folder has no file for it; a speed that is none, or
            for a model without exits; a length that is none, or for an engine with one graph for all.
    """
    engine, place = _loader(name), Path(folder)
    wanted, milliseconds = (None, None) if speed is None else understood(speed)
    blueprint, graphs = blueprint_of(place), place / name
    if blueprint is None:
        if wanted or milliseconds is not None:
            raise EngineError(f"{folder}: has no early exits, so speed={speed} means nothing")
    elif speed is None:
        wanted = own_speed(place, blueprint)
    if blueprint is None or wanted == 0:
        return _whole(engine, place, threads, lengths, graphs)
    parts = engine.load_parts(place, [SEGMENT.format(number) for number in range(len(blueprint.exits))], threads)
    staged = Staged(parts, blueprint, wanted or 0.0)
    served = with_lengths(staged, parts, lengths, graphs)
    if milliseconds is not None:
        staged.speed = keeping(milliseconds, place, parts, lengths)
    return served if staged.speed else _whole(engine, place, threads, lengths, graphs)


def _whole(engine: type[Loader], place: Path, threads: int | None, lengths: Sequence[int], graphs: Path) -> Engine:
    """All layers in one graph."""
    whole = engine.load(place, threads)
    return with_lengths(whole, [whole], lengths, graphs)


def load_halves(name: str, folder: str | Path, threads: int | None = None) -> Halves:
    """The same for a model whose lower layers read the two texts apart, as its two halves.

    Raises:
        EngineError: as there, or the model is none of these.
    """
    return Halves(*_loader(name).load_parts(Path(folder), ("lower", "upper"), threads))


def _loader(name: str) -> type[Loader]:
    if name not in NAMES:
        raise EngineError(f"engine={name} must be one of {', '.join(NAMES)}")
    found: type[Loader] = import_module(f"bertpress.engines.{name}").EngineClass
    return found
