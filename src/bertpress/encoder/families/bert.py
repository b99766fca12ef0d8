"""BERT: the table that the other families differ from."""

from collections.abc import Mapping
from typing import ClassVar

from bertpress.encoder.blueprint import HeadKind
from bertpress.encoder.families.base import Family, Names


class Bert(Family):
    """Classifier on the pooler; the masked-LM decoder is tied to the token table."""

    heads: ClassVar[Mapping[HeadKind, Names]] = {
        "sequence": {"head.dense": "pooler.dense", "head.classifier": "classifier"},
        "token": {"head.classifier": "classifier"},
        "span": {"head.classifier": "qa_outputs"},
        "masked_lm": {
            "head.dense": "cls.predictions.transform.dense",
            "head.norm": "cls.predictions.transform.LayerNorm",
            "head.bias": "cls.predictions.bias",
        },
    }
    copies: ClassVar[Names] = {
        "cls.predictions.decoder.weight": "encoder.embeddings.word.weight",
        "cls.predictions.decoder.bias": "head.bias",
    }
    leftovers: ClassVar[tuple[str, ...]] = ("cls.seq_relationship",)


MEMBERS = (Bert("bert", "Bert", "bert"),)
