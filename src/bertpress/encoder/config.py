"""config.json of an artifact; apart from the model, so that ``AutoConfig`` alone need not load it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from transformers import PretrainedConfig

from bertpress.encoder.blueprint import Blueprint
from bertpress.errors import ModelError


class BertpressConfig(PretrainedConfig):  # type: ignore[misc]
    """config.json of an artifact: the blueprint, and what transformers keeps of labels and problem type."""

    model_type = "bertpress"

    def __init__(self, blueprint: dict[str, Any] | Blueprint | None = None, **kwargs: Any) -> None:
        shape = blueprint if isinstance(blueprint, Blueprint) else Blueprint(**blueprint) if blueprint else None
        self.blueprint = shape.model_dump(mode="json", exclude_defaults=True) if shape else None
        if shape:
            self.vocab_size = shape.embeddings.vocabulary
            self.hidden_size = shape.hidden_size
            self.num_hidden_layers = len(shape.layers)
            self.max_position_embeddings = shape.embeddings.positions
            self.pad_token_id = shape.embeddings.pad_id
            if shape.head and shape.head.kind in ("sequence", "token") and shape.head.labels:
                kwargs.setdefault("num_labels", shape.head.labels)
        super().__init__(**kwargs)

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> BertpressConfig:
        """The configuration in a folder.

        Raises:
            ModelError: it is damaged, or a field that transformers knows has a wrong type.
        """
        try:
            config = cls.from_pretrained(folder, local_files_only=True)
            if not isinstance(names := config.architectures or [], list) or not all(isinstance(n, str) for n in names):
                raise TypeError(f"architectures={names!r} must be a list of names")
        except Exception as error:  # transformers checks few types, and uses them all
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise ModelError(f"{Path(folder) / 'config.json'}: no configuration of a model ({reason})") from None
        return cast(BertpressConfig, config)

    @property
    def shape(self) -> Blueprint:
        """The validated blueprint."""
        if self.blueprint is None:
            raise ValueError("config.json has no blueprint")
        return Blueprint(**self.blueprint)
