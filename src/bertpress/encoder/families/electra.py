"""ELECTRA: a narrower token table, projected; no pooler; the generator's head for masked LM."""

from collections.abc import Mapping
from typing import Any, ClassVar

from bertpress.encoder.blueprint import Activation, Blueprint, EmbeddingSpec, HeadKind
from bertpress.encoder.families.base import Family, Names


class Electra(Family):
    """The classifier has a dense layer of its own, with GELU."""

    embeddings: ClassVar[Names] = {**Family.embeddings, "encoder.embeddings.projection": "embeddings_project"}
    pooler: ClassVar[Names] = {}
    heads: ClassVar[Mapping[HeadKind, Names]] = {
        "sequence": {"head.dense": "classifier.dense", "head.classifier": "classifier.out_proj"},
        "token": {"head.classifier": "classifier"},
        "span": {"head.classifier": "qa_outputs"},
        "masked_lm": {
            "head.dense": "generator_predictions.dense",
            "head.norm": "generator_predictions.LayerNorm",
            "head.bias": "generator_lm_head.bias",
        },
    }
    copies: ClassVar[Names] = {"generator_lm_head.weight": "encoder.embeddings.word.weight"}
    leftovers: ClassVar[tuple[str, ...]] = (
        "discriminator_predictions.dense",
        "discriminator_predictions.dense_prediction",
    )
    head_activation: ClassVar[Activation] = "gelu"
    masked_lm_activation: ClassVar[Activation | None] = "gelu"

    def embedding_spec(self, config: Any) -> EmbeddingSpec:
        """Tables of the embedding size, projected where the hidden size is another."""
        project = "none" if config.embedding_size == config.hidden_size else "after"
        fields = super().embedding_spec(config).model_dump()
        return EmbeddingSpec(**{**fields, "size": config.embedding_size, "project": project})

    def further(self, blueprint: Blueprint) -> dict[str, Any]:
        """The embedding size too."""
        return {**super().further(blueprint), "embedding_size": blueprint.embeddings.size}


MEMBERS = (Electra("electra", "Electra", "electra"),)
