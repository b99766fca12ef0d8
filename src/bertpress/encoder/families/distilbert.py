"""DistilBERT: no segments, no pooler, names of its own."""

from collections.abc import Mapping
from typing import Any, ClassVar

from bertpress.encoder.blueprint import Activation, Blueprint, EmbeddingSpec, HeadKind
from bertpress.encoder.families.base import Family, Names


class DistilBert(Family):
    """A dense layer with ReLU stands before the classifier."""

    keys: ClassVar[Names] = {
        "hidden": "dim",
        "depth": "n_layers",
        "heads": "n_heads",
        "ffn": "hidden_dim",
        "activation": "activation",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
    }
    embeddings: ClassVar[Names] = {
        "encoder.embeddings.word": "embeddings.word_embeddings",
        "encoder.embeddings.position": "embeddings.position_embeddings",
        "encoder.embeddings.norm": "embeddings.LayerNorm",
    }
    attention: ClassVar[Names] = {
        "attention.query": "transformer.layer.{layer}.attention.q_lin",
        "attention.key": "transformer.layer.{layer}.attention.k_lin",
        "attention.value": "transformer.layer.{layer}.attention.v_lin",
        "attention.output": "transformer.layer.{layer}.attention.out_lin",
        "attention.norm": "transformer.layer.{layer}.sa_layer_norm",
    }
    ffn: ClassVar[Names] = {
        "ffn.0.inner": "transformer.layer.{layer}.ffn.lin1",
        "ffn.0.outer": "transformer.layer.{layer}.ffn.lin2",
        "ffn.0.norm": "transformer.layer.{layer}.output_layer_norm",
    }
    pooler: ClassVar[Names] = {}
    heads: ClassVar[Mapping[HeadKind, Names]] = {
        "sequence": {"head.dense": "pre_classifier", "head.classifier": "classifier"},
        "token": {"head.classifier": "classifier"},
        "span": {"head.classifier": "qa_outputs"},
        "masked_lm": {
            "head.dense": "vocab_transform",
            "head.norm": "vocab_layer_norm",
            "head.bias": "vocab_projector.bias",
        },
    }
    copies: ClassVar[Names] = {"vocab_projector.weight": "encoder.embeddings.word.weight"}
    head_activation: ClassVar[Activation] = "relu"

    def embedding_spec(self, config: Any) -> EmbeddingSpec:
        """Tokens and positions."""
        return EmbeddingSpec(
            vocabulary=config.vocab_size,
            size=config.dim,
            positions=config.max_position_embeddings,
            segments=0,
            pad_id=config.pad_token_id or 0,
        )

    def further(self, blueprint: Blueprint) -> dict[str, Any]:
        """Nothing: its norms have a fixed epsilon."""
        return {}


MEMBERS = (DistilBert("distilbert", "DistilBert", "distilbert"),)
