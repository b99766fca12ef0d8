"""Compress trained BERT-family encoders with any method of the literature, and measure what came out.

Importing this package takes milliseconds: its names are looked up in :mod:`bertpress.api` when they are first used,
and the Auto classes of transformers learn of artifacts at the instant when they are imported themselves.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bertpress.encoder.register import register as _register_auto_classes

if TYPE_CHECKING:
    from bertpress.api import (
        Artifact,
        Recipe,
        Task,
        advise,
        bench,
        compress,
        demo,
        evaluate,
        export,
        load,
        methods,
        predict,
        profile,
        recipes,
        register,
        report,
        results,
        search,
        study,
        train,
    )

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "Recipe",
    "Task",
    "advise",
    "bench",
    "compress",
    "demo",
    "evaluate",
    "export",
    "load",
    "methods",
    "predict",
    "profile",
    "recipes",
    "register",
    "report",
    "results",
    "search",
    "study",
    "train",
]


class _Package(ModuleType):
    """This module.  Its functions keep their names although packages below share some of them.

    The import system puts ``bertpress.report`` here once it has been imported; ``bertpress.report(run)`` must work
    all the same, and ``from bertpress.report import run_page`` does not look here.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bertpress import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _unpack(folder: Path) -> Any:
    """Read packed weights for ``from_pretrained``; codecs are imported when the first artifact is read."""
    from bertpress.artifact.load import unpack

    return unpack(folder)


sys.modules[__name__].__class__ = _Package
_register_auto_classes(_unpack)
