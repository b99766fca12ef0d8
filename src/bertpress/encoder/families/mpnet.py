"""MPNet: no segments, RoBERTa's positions, and a relative position bias that all layers share."""

from collections.abc import Mapping
from typing import Any, ClassVar

from bertpress.encoder.blueprint import Activation, Blueprint, EmbeddingSpec, HeadKind, RelativeSpec
from bertpress.encoder.families.base import Family, Names
from bertpress.encoder.families.roberta import Roberta
from bertpress.errors import ModelError

BUCKETS = 32  # fixed in transformers' code, whatever the config says
PAD_ID = 1  # likewise


class MPNet(Family):
    """Heads are RoBERTa's."""

    embeddings: ClassVar[Names] = {
        "encoder.embeddings.word": "embeddings.word_embeddings",
        "encoder.embeddings.position": "embeddings.position_embeddings",
        "encoder.embeddings.norm": "embeddings.LayerNorm",
        "encoder.relative": "encoder.relative_attention_bias",
    }
    attention: ClassVar[Names] = {
        "attention.query": "encoder.layer.{layer}.attention.attn.q",
        "attention.key": "encoder.layer.{layer}.attention.attn.k",
        "attention.value": "encoder.layer.{layer}.attention.attn.v",
        "attention.output": "encoder.layer.{layer}.attention.attn.o",
        "attention.norm": "encoder.layer.{layer}.attention.LayerNorm",
    }
    heads: ClassVar[Mapping[HeadKind, Names]] = Roberta.heads
    copies: ClassVar[Names] = Roberta.copies
    masked_lm_activation: ClassVar[Activation | None] = "gelu"

    def embedding_spec(self, config: Any) -> EmbeddingSpec:
        """Tokens and positions."""
        return EmbeddingSpec(
            vocabulary=config.vocab_size,
            size=config.hidden_size,
            positions=config.max_position_embeddings,
            segments=0,
            first_position=PAD_ID + 1,
            pad_id=PAD_ID,
        )

    def relative_spec(self, config: Any) -> RelativeSpec:
        """The shared bias."""
        buckets = config.relative_attention_num_buckets
        if buckets != BUCKETS:
            field = f"relative_attention_num_buckets={buckets}"
            raise ModelError(f"{field} is not supported (supported: {BUCKETS})")
        return RelativeSpec(buckets=buckets, heads=config.num_attention_heads)

    def further(self, blueprint: Blueprint) -> dict[str, Any]:
        """The buckets too."""
        fields: dict[str, Any] = {"layer_norm_eps": blueprint.norm_epsilon}
        if blueprint.relative:
            fields["relative_attention_num_buckets"] = blueprint.relative.buckets
        return fields


MEMBERS = (MPNet("mpnet", "MPNet", "mpnet"),)
