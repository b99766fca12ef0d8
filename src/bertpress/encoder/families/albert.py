"""ALBERT: groups of layers share their weights; a narrow token table is always projected."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from bertpress.encoder.blueprint import Blueprint, EmbeddingSpec, HeadKind, LayerSpec
from bertpress.encoder.families.base import MOST_PARTS, Family, Names, Pair
from bertpress.errors import ModelError

_LAYER = "encoder.albert_layer_groups.{group}.albert_layers.{inner}."


class Albert(Family):
    """``num_hidden_layers`` x ``inner_group_num`` layers run, each with the weights of its place in its group."""

    embeddings: ClassVar[Names] = {
        **Family.embeddings,
        "encoder.embeddings.projection": "encoder.embedding_hidden_mapping_in",
    }
    attention: ClassVar[Names] = {
        "attention.query": _LAYER + "attention.query",
        "attention.key": _LAYER + "attention.key",
        "attention.value": _LAYER + "attention.value",
        "attention.output": _LAYER + "attention.dense",
        "attention.norm": _LAYER + "attention.LayerNorm",
    }
    ffn: ClassVar[Names] = {
        "ffn.0.inner": _LAYER + "ffn",
        "ffn.0.outer": _LAYER + "ffn_output",
        "ffn.0.norm": _LAYER + "full_layer_layer_norm",
    }
    pooler: ClassVar[Names] = {"head.dense": "pooler"}
    heads: ClassVar[Mapping[HeadKind, Names]] = {
        "sequence": {"head.dense": "pooler", "head.classifier": "classifier"},
        "token": {"head.classifier": "classifier"},
        "span": {"head.classifier": "qa_outputs"},
        "masked_lm": {
            "head.dense": "predictions.dense",
            "head.norm": "predictions.LayerNorm",
            "head.bias": "predictions.bias",
        },
    }
    copies: ClassVar[Names] = {
        "predictions.decoder.weight": "encoder.embeddings.word.weight",
        "predictions.decoder.bias": "head.bias",
    }
    leftovers: ClassVar[tuple[str, ...]] = ("sop_classifier.classifier",)

    def embedding_spec(self, config: Any) -> EmbeddingSpec:
        """Tables of the embedding size, then a projection."""
        fields = super().embedding_spec(config).model_dump()
        return EmbeddingSpec(**{**fields, "size": config.embedding_size, "project": "after"})

    def layer_specs(self, config: Any) -> tuple[LayerSpec, ...]:
        """Every layer that runs; one whose group has run before names the layer that owns the weights."""
        depth, groups, inner = config.num_hidden_layers, config.num_hidden_groups, config.inner_group_num
        if not 1 <= inner <= MOST_PARTS // max(depth, 1):
            raise ModelError(f"inner_group_num={inner} must be in [1, {MOST_PARTS}] over num_hidden_layers={depth}")
        if not 1 <= groups <= depth:
            raise ModelError(f"num_hidden_groups={groups} must be in [1, num_hidden_layers={depth}]")
        if getattr(config, "pruned_heads", None):
            raise ModelError(f"pruned_heads={config.pruned_heads} is not supported for albert")
        spec = LayerSpec(
            attention=self.attention_spec(config, config.hidden_size),
            ffn=(config.intermediate_size,),
            activation=self.activation(config),
        )
        return tuple(
            spec if owner == i else spec.model_copy(update={"attention_from": owner, "ffn_from": owner})
            for i, owner in enumerate(_owners(depth, groups, inner))
        )

    def further(self, blueprint: Blueprint) -> dict[str, Any]:
        """The groups that share weights; one group a layer where no grouping says what the blueprint says."""
        depth = len(blueprint.layers)
        groups, inner = _grouping(blueprint) or (depth, 1)
        return {
            **super().further(blueprint),
            "embedding_size": blueprint.embeddings.size,
            "num_hidden_layers": depth // inner,
            "num_hidden_groups": groups,
            "inner_group_num": inner,
            "classifier_dropout_prob": blueprint.dropout,
        }

    def shares(self, blueprint: Blueprint) -> bool:
        """If the sharing is one of groups."""
        return _grouping(blueprint) is not None

    def names(self, blueprint: Blueprint, config: Any) -> Iterator[Pair]:
        """Layers are named by group and place in it."""
        yield from ((theirs, ours) for ours, theirs in self.embeddings.items())
        inner_count = config.inner_group_num
        for i, layer in enumerate(blueprint.layers):
            group = _group(i // inner_count, config.num_hidden_layers, config.num_hidden_groups)
            place = {"group": group, "inner": i % inner_count}
            for source, table in ((layer.attention_from, self.attention), (layer.ffn_from, self.ffn)):
                prefix = f"encoder.layers.{i if source is None else source}."
                yield from ((theirs.format(**place), prefix + ours) for ours, theirs in table.items())
        yield from self.head_names(blueprint.head)


def _group(layer: int, depth: int, groups: int) -> int:
    return int(layer / (depth / groups))  # in floating point, as transformers computes it


def _owners(depth: int, groups: int, inner: int) -> list[int]:
    """For each layer that runs, the first one with its weights."""
    keys = [(_group(i, depth, groups), j) for i in range(depth) for j in range(inner)]
    return [keys.index(key) for key in keys]


def _grouping(blueprint: Blueprint) -> tuple[int, int] | None:
    """(num_hidden_groups, inner_group_num) by which the layers share as the blueprint says."""
    layers = blueprint.layers
    if any(layer.attention_from != layer.ffn_from for layer in layers):
        return None
    wanted = [i if layer.ffn_from is None else layer.ffn_from for i, layer in enumerate(layers)]
    depth, owners = len(layers), len(set(wanted))
    for inner in range(1, owners + 1):
        groups = owners // inner
        fits = not owners % inner and not depth % inner and groups <= depth // inner
        if fits and _owners(depth // inner, groups, inner) == wanted:
            return groups, inner
    return None


MEMBERS = (Albert("albert", "Albert", "albert"),)
