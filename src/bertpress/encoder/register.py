"""Makes transformers' Auto classes, and so its pipelines, know an artifact.

``import bertpress`` must stay quick, and the Auto classes take seconds to import; so :func:`register` leaves a
note with Python's import system, which is acted on at the instant when somebody imports them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from bertpress.encoder.model import Unpacker

_unpackers: list[Unpacker] = []


def register(*unpackers: Unpacker) -> None:
    """Register artifacts with the Auto classes: now with those that are imported, else when they are.

    Args:
        *unpackers: further readers of packed weights for ``from_pretrained``, see ``model.unpackers``.
    """
    _unpackers.extend(unpacker for unpacker in unpackers if unpacker not in _unpackers)
    if not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())
    for name in _ACTIONS:
        if name in sys.modules:
            _ACTIONS[name]()


def register_config() -> None:
    """Teach ``AutoConfig`` the model type ``bertpress``."""
    from transformers.models.auto.configuration_auto import AutoConfig

    try:
        from bertpress.encoder.config import BertpressConfig
    except ImportError:  # half imported: it asked for the Auto classes itself, and has a note of its own
        return
    AutoConfig.register(BertpressConfig.model_type, BertpressConfig, exist_ok=True)


def register_models() -> None:
    """Teach the Auto classes which model goes with each head."""
    from transformers.models.auto import modeling_auto

    try:
        from bertpress.encoder import model
        from bertpress.encoder.model import build_model  # noqa: F401  the last thing that it defines
    except ImportError:  # half imported, as above
        return
    register_config()
    model.unpackers.extend(unpacker for unpacker in _unpackers if unpacker not in model.unpackers)
    for auto, shell in (
        ("AutoModel", model.BertpressModel),
        ("AutoModelForSequenceClassification", model.BertpressForSequenceClassification),
        ("AutoModelForTokenClassification", model.BertpressForTokenClassification),
        ("AutoModelForQuestionAnswering", model.BertpressForQuestionAnswering),
        ("AutoModelForMaskedLM", model.BertpressForMaskedLM),
    ):
        getattr(modeling_auto, auto).register(model.BertpressConfig, shell, exist_ok=True)


_ACTIONS: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": register_config,
    "transformers.models.auto.modeling_auto": register_models,
    "bertpress.encoder.config": register_config,
    "bertpress.encoder.model": register_models,
}
"""What to do once a module has been imported.  Both sides are named, since either may be the one that comes last."""


class _AfterImport:
    """Finds nothing itself; lets the other finders find a module of ``_ACTIONS`` and acts when it has run."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        action = _ACTIONS.get(name)
        if action is None:
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_act(module: ModuleType) -> None:
            execute(module)
            action()

        spec.loader.exec_module = execute_and_act  # type: ignore[method-assign]
        return spec
