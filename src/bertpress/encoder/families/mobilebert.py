"""MobileBERT: bottlenecks, stacked feed-forward networks, NoNorm, three neighbours in one token vector."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from bertpress.encoder.blueprint import Blueprint, BottleneckSpec, EmbeddingSpec, HeadKind, LayerSpec, Norm
from bertpress.encoder.families.base import Names, Pair
from bertpress.encoder.families.bert import Bert
from bertpress.errors import ModelError

NORMS: dict[str, Norm] = {"no_norm": "affine", "layer_norm": "layer"}
TORCH_EPSILON = 1e-5


class MobileBert(Bert):
    """The last network of each stack has BERT's names, the others a list of their own."""

    embeddings: ClassVar[Names] = {
        **Bert.embeddings,
        "encoder.embeddings.projection": "embeddings.embedding_transformation",
    }
    attention: ClassVar[Names] = {
        **Bert.attention,
        "narrow.dense": "encoder.layer.{layer}.bottleneck.input.dense",
        "narrow.norm": "encoder.layer.{layer}.bottleneck.input.LayerNorm",
        "narrow_query.dense": "encoder.layer.{layer}.bottleneck.attention.dense",
        "narrow_query.norm": "encoder.layer.{layer}.bottleneck.attention.LayerNorm",
    }
    ffn: ClassVar[Names] = {
        "widen.dense": "encoder.layer.{layer}.output.bottleneck.dense",
        "widen.norm": "encoder.layer.{layer}.output.bottleneck.LayerNorm",
    }
    heads: ClassVar[Mapping[HeadKind, Names]] = {
        **Bert.heads,
        "masked_lm": {**Bert.heads["masked_lm"], "head.decoder": "cls.predictions.dense.weight"},
    }
    leftovers: ClassVar[tuple[str, ...]] = (*Bert.leftovers, "embeddings.embedding_transformation")
    free_decoder: ClassVar[bool] = True

    def refuse(self, config: Any) -> None:
        """Also what one epsilon for all norms cannot say.

        Raises:
            ModelError: the field, its value, and what is supported.
        """
        super().refuse(config)
        norm, epsilon = config.normalization_type, config.layer_norm_eps
        if norm not in NORMS:
            raise ModelError(f"normalization_type={norm!r} is not supported (supported: {', '.join(NORMS)})")
        if norm == "layer_norm" and epsilon != TORCH_EPSILON:
            # transformers gives half of the norms torch's default epsilon, whatever the config says
            raise ModelError(f"layer_norm_eps={epsilon} with {norm} is not supported (supported: {TORCH_EPSILON})")
        if getattr(config, "pruned_heads", None):
            raise ModelError(f"pruned_heads={config.pruned_heads} is not supported for mobilebert")

    def embedding_spec(self, config: Any) -> EmbeddingSpec:
        """The token table alone is projected; positions and segments have the hidden width."""
        projected = config.trigram_input or config.embedding_size != config.hidden_size
        return EmbeddingSpec(
            vocabulary=config.vocab_size,
            size=config.embedding_size,
            positions=config.max_position_embeddings,
            segments=config.type_vocab_size,
            window=3 if config.trigram_input else 1,
            project="tokens" if projected else "none",
            pad_id=config.pad_token_id or 0,
            norm=NORMS[config.normalization_type],
        )

    def layer_specs(self, config: Any) -> tuple[LayerSpec, ...]:
        """Equal layers, with a bottleneck or without."""
        neck = None
        if config.use_bottleneck:
            shared = "shared" if config.key_query_shared_bottleneck else "hidden"
            source = "inner" if config.use_bottleneck_attention else shared
            neck = BottleneckSpec(size=config.intra_bottleneck_size, attention_input=source)
        layer = LayerSpec(
            attention=self.attention_spec(config, neck.size if neck else config.hidden_size),
            ffn=(config.intermediate_size,) * config.num_feedforward_networks,
            activation=self.activation(config),
            norm=NORMS[config.normalization_type],
            bottleneck=neck,
        )
        return tuple(layer for _ in range(config.num_hidden_layers))

    def further(self, blueprint: Blueprint) -> dict[str, Any]:
        """Everything that makes a MobileBERT."""
        first, neck, head = blueprint.layers[0], blueprint.layers[0].bottleneck, blueprint.head
        return {
            **super().further(blueprint),
            "embedding_size": blueprint.embeddings.size,
            "trigram_input": blueprint.embeddings.window == 3,
            "use_bottleneck": neck is not None,
            "intra_bottleneck_size": neck.size if neck else blueprint.hidden_size,
            "use_bottleneck_attention": neck is not None and neck.attention_input == "inner",
            "key_query_shared_bottleneck": neck is not None and neck.attention_input == "shared",
            "num_feedforward_networks": len(first.ffn),
            "normalization_type": "no_norm" if first.norm == "affine" else "layer_norm",
            "classifier_activation": head is None or head.kind != "sequence" or head.dense,
        }

    def has_dense(self, config: Any) -> bool:
        """The pooler may be the first token as it is."""
        return bool(config.classifier_activation)

    def names(self, blueprint: Blueprint, config: Any) -> Iterator[Pair]:
        """BERT's, and the stacks."""
        yield from super().names(blueprint, config)
        for i, layer in enumerate(blueprint.layers):
            owner = i if layer.ffn_from is None else layer.ffn_from
            last = len(layer.ffn) - 1
            for j in range(len(layer.ffn)):
                theirs = f"encoder.layer.{i}." + ("" if j == last else f"ffn.{j}.")
                ours = f"encoder.layers.{owner}.ffn.{j}."
                yield theirs + "intermediate.dense", ours + "inner"
                yield theirs + "output.dense", ours + "outer"
                yield theirs + "output.LayerNorm", ours + "norm"

    def known_leftovers(self, blueprint: Blueprint) -> frozenset[str]:
        """Also the queries' bottleneck, which transformers builds but skips where attention reads the inner one."""
        unused = [
            f"encoder.layer.{i}.bottleneck.attention.{part}.{kind}"
            for i, layer in enumerate(blueprint.layers)
            if layer.bottleneck and layer.bottleneck.attention_input == "inner"
            for part in ("dense", "LayerNorm")
            for kind in ("weight", "bias")
        ]
        return super().known_leftovers(blueprint) | frozenset(unused)


MEMBERS = (MobileBert("mobilebert", "MobileBert", "mobilebert"),)
