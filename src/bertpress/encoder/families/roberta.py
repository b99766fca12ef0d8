"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT whose positions count from the padding id on, and skip pads."""

from collections.abc import Mapping
from typing import Any, ClassVar

from bertpress.encoder.blueprint import Activation, EmbeddingSpec, HeadKind
from bertpress.encoder.families.base import Family, Names


class Roberta(Family):
    """The classifier has a dense layer of its own; the pooler belongs to the bare model alone."""

    heads: ClassVar[Mapping[HeadKind, Names]] = {
        "sequence": {"head.dense": "classifier.dense", "head.classifier": "classifier.out_proj"},
        "token": {"head.classifier": "classifier"},
        "span": {"head.classifier": "qa_outputs"},
        "masked_lm": {"head.dense": "lm_head.dense", "head.norm": "lm_head.layer_norm", "head.bias": "lm_head.bias"},
    }
    copies: ClassVar[Names] = {
        "lm_head.decoder.weight": "encoder.embeddings.word.weight",
        "lm_head.decoder.bias": "head.bias",
    }
    masked_lm_activation: ClassVar[Activation | None] = "gelu"

    def embedding_spec(self, config: Any) -> EmbeddingSpec:
        """As BERT's, positions from the padding id + 1."""
        spec = super().embedding_spec(config)
        return spec.model_copy(update={"first_position": spec.pad_id + 1})


MEMBERS = (
    Roberta("roberta", "Roberta", "roberta"),
    Roberta("xlm-roberta", "XLMRoberta", "roberta"),
    Roberta("camembert", "Camembert", "roberta"),
)
