"""Well-known shapes by name, for models with random weights (``shape:bert-base``)."""

import difflib
from typing import Any

from bertpress.errors import ModelError

PREFIX = "shape:"


def _bert(layers: int, hidden: int, heads: int, **more: Any) -> tuple[str, dict[str, Any]]:
    fields = {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads}
    return "bert", {**fields, "intermediate_size": 4 * hidden, **more}


SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-tiny": _bert(2, 128, 2),
    "bert-mini": _bert(4, 256, 4),
    "bert-small": _bert(4, 512, 8),
    "bert-medium": _bert(8, 512, 8),
    "bert-base": _bert(12, 768, 12),
    "bert-large": _bert(24, 1024, 16),
    "tinybert-4": _bert(4, 312, 12, intermediate_size=1200),
    "tinybert-6": _bert(6, 768, 12),
    "minilm-l6": _bert(6, 384, 12),
    "minilm-l12": _bert(12, 384, 12),
    "distilbert-base": ("distilbert", {}),
    "roberta-base": ("roberta", {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "roberta-large": (
        "roberta",
        {
            "num_hidden_layers": 24,
            "hidden_size": 1024,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
        },
    ),
    "electra-small": ("electra", {}),
    "electra-base": (
        "electra",
        {"embedding_size": 768, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    ),
    "albert-base": ("albert", {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}),
    "mpnet-base": ("mpnet", {"max_position_embeddings": 514, "layer_norm_eps": 1e-5}),
    "mobilebert": ("mobilebert", {}),
}
"""model_type of the family, and where the config differs from the family's default."""


def shape(name: str) -> tuple[str, dict[str, Any]]:
    """The model_type and config of a shape; ``shape:`` may stand before the name.

    Raises:
        ModelError: no such shape; suggests one.
    """
    bare = name.removeprefix(PREFIX)
    if bare not in SHAPES:
        near = difflib.get_close_matches(bare, SHAPES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ModelError(f"{PREFIX}{bare}: no such shape (known: {', '.join(SHAPES)}){hint}")
    return SHAPES[bare]
