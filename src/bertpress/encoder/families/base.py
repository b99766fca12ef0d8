"""What is known of a model family: how a config becomes a shape, what the weights are called, and back.

The name tables are data that works in both directions: they pair our module (or weight) with theirs, and a
module stands for its weight and bias.  ``{layer}`` is filled in for each layer.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from pydantic import ValidationError

from bertpress.encoder.blueprint import (
    Activation,
    AttentionSpec,
    Blueprint,
    EmbeddingSpec,
    HeadKind,
    HeadSpec,
    LayerSpec,
    RelativeSpec,
)
from bertpress.errors import ModelError

Names = Mapping[str, str]
"""Our name to theirs."""

Pair = tuple[str, str]
"""A module or weight: theirs, ours."""

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "gelu_accurate": "gelu_pytorch_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "linear": "none",
}

REFUSED: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "quantization_config": (),
    "auto_map": (),
}
"""Fields of config.json that change the computation, and the values that we compute besides none at all."""

PARTS = ("num_hidden_layers", "num_attention_heads", "num_feedforward_networks")
"""Fields of config.json that count what is walked over."""
MOST_PARTS = 10_000
"""Of layers, heads, networks: above all that was ever trained, below what takes long to count."""

BASE = frozenset({"embeddings", "embeddings_project", "encoder", "transformer", "pooler"})
"""First parts of the names that belong to the model without its head."""


class Family:
    """BERT itself; a subclass states where it differs.

    Args:
        model_type: as in config.json.
        classes: what the names of the transformers classes begin with.
        base: what the names of the weights below a head begin with.
    """

    keys: ClassVar[Names] = {
        "hidden": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "ffn": "intermediate_size",
        "activation": "hidden_act",
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
    }
    embeddings: ClassVar[Names] = {
        "encoder.embeddings.word": "embeddings.word_embeddings",
        "encoder.embeddings.position": "embeddings.position_embeddings",
        "encoder.embeddings.segment": "embeddings.token_type_embeddings",
        "encoder.embeddings.norm": "embeddings.LayerNorm",
    }
    attention: ClassVar[Names] = {
        "attention.query": "encoder.layer.{layer}.attention.self.query",
        "attention.key": "encoder.layer.{layer}.attention.self.key",
        "attention.value": "encoder.layer.{layer}.attention.self.value",
        "attention.output": "encoder.layer.{layer}.attention.output.dense",
        "attention.norm": "encoder.layer.{layer}.attention.output.LayerNorm",
    }
    ffn: ClassVar[Names] = {
        "ffn.0.inner": "encoder.layer.{layer}.intermediate.dense",
        "ffn.0.outer": "encoder.layer.{layer}.output.dense",
        "ffn.0.norm": "encoder.layer.{layer}.output.LayerNorm",
    }
    pooler: ClassVar[Names] = {"head.dense": "pooler.dense"}
    heads: ClassVar[Mapping[HeadKind, Names]] = {}
    copies: ClassVar[Names] = {}
    """Their weights that a file may hold although they are tied: theirs to ours."""
    leftovers: ClassVar[tuple[str, ...]] = ()
    """Their modules that pre-training alone uses."""
    head_activation: ClassVar[Activation] = "tanh"
    masked_lm_activation: ClassVar[Activation | None] = None
    """None: the activation of the layers."""
    free_decoder: ClassVar[bool] = False

    def __init__(self, model_type: str, classes: str, base: str) -> None:
        self.model_type, self.classes, self.base = model_type, classes, base

    # --- config to shape ---

    def blueprint(self, config: Any) -> Blueprint:
        """The shape that a transformers config describes, without a head.

        Raises:
            ModelError: the config asks for something that the encoder does not compute, or is out of bounds.
        """
        self.refuse(config)
        try:
            return Blueprint(
                family=self.model_type,
                hidden_size=self.read(config, "hidden"),
                embeddings=self.embedding_spec(config),
                relative=self.relative_spec(config),
                layers=self.layer_specs(config),
                norm_epsilon=getattr(config, "layer_norm_eps", 1e-12),
                dropout=self.read(config, "dropout"),
                attention_dropout=self.read(config, "attention_dropout"),
            )
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ModelError(f"{place}={first.get('input')!r}: {first['msg'].lower()}") from None

    def read(self, config: Any, key: str) -> Any:
        """A field of the config under our name for it."""
        return getattr(config, self.keys[key])

    def refuse(self, config: Any) -> None:
        """Refuse, by name, what would be computed in another way.

        Raises:
            ModelError: the field, its value, and what is supported.
        """
        for field in PARTS:
            count = getattr(config, field, None)
            if isinstance(count, int) and count > MOST_PARTS:
                raise ModelError(f"{field}={count} must be at most {MOST_PARTS}")
        for field, supported in REFUSED.items():
            value = getattr(config, field, None)
            if value is None or value in supported:
                continue
            if field == "auto_map":
                raise ModelError(f"auto_map={value!r}: models that bring code of their own are not supported")
            known = ", ".join(map(repr, supported)) or "none"
            raise ModelError(f"{field}={value!r} is not supported for {self.model_type} (supported: {known})")

    def embedding_spec(self, config: Any) -> EmbeddingSpec:
        """The embeddings that the config describes."""
        return EmbeddingSpec(
            vocabulary=config.vocab_size,
            size=config.hidden_size,
            positions=config.max_position_embeddings,
            segments=at_least_one(config, "type_vocab_size"),
            pad_id=config.pad_token_id or 0,
        )

    def relative_spec(self, config: Any) -> RelativeSpec | None:
        """The relative position bias, where the family has one."""
        return None

    def layer_specs(self, config: Any) -> tuple[LayerSpec, ...]:
        """All layers; those that a config's ``pruned_heads`` names are narrower."""
        listed = getattr(config, "pruned_heads", None) or {}  # written by transformers before version 5
        pruned = {int(layer): set(heads) for layer, heads in listed.items()}
        return tuple(
            LayerSpec(
                attention=self.attention_spec(config, self.read(config, "hidden"), pruned.get(i, set())),
                ffn=(self.read(config, "ffn"),),
                activation=self.activation(config),
            )
            for i in range(self.read(config, "depth"))
        )

    def attention_spec(self, config: Any, width: int, pruned: Iterable[int] = ()) -> AttentionSpec:
        """Equal heads that span ``width``, less the pruned ones."""
        heads = self.read(config, "heads")
        if heads < 1 or width % heads:
            raise ModelError(f"{self.keys['heads']}={heads} must divide the width of the layer, {width}")
        left = tuple(head for head in range(heads) if head not in set(pruned))
        return AttentionSpec(heads=left, head_size=width // heads, value_size=width // heads)

    def activation(self, config: Any) -> Activation:
        """The activation of the feed-forward networks."""
        name = self.read(config, "activation")
        if name not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ModelError(f"{self.keys['activation']}={name!r} is not supported (supported: {known})")
        return ACTIVATIONS[name]

    # --- shape to config ---

    def config(self, blueprint: Blueprint) -> dict[str, Any]:
        """Fields of the transformers config that comes nearest; :meth:`blueprint` tells what it leaves out."""
        first, spec = blueprint.layers[0], blueprint.embeddings
        ours = {
            "hidden": blueprint.hidden_size,
            "depth": len(blueprint.layers),
            "heads": max(1, len(first.attention.heads)),
            "ffn": first.ffn[0],
            "activation": "linear" if first.activation == "none" else first.activation,
            "dropout": blueprint.dropout,
            "attention_dropout": blueprint.attention_dropout,
        }
        return {
            **{self.keys[key]: value for key, value in ours.items()},
            "vocab_size": spec.vocabulary,
            "max_position_embeddings": spec.positions,
            "pad_token_id": spec.pad_id,
            **self.further(blueprint),
        }

    def further(self, blueprint: Blueprint) -> dict[str, Any]:
        """Fields of the config that not every family has."""
        return {"type_vocab_size": blueprint.embeddings.segments, "layer_norm_eps": blueprint.norm_epsilon}

    def shares(self, blueprint: Blueprint) -> bool:
        """Whether the family's config can say which layers share their weights."""
        return False

    # --- heads ---

    def head(self, kind: HeadKind, labels: int, activation: Activation, *, dense: bool = True) -> HeadSpec:
        """The head that transformers gives this family.

        Args:
            kind: of the head.
            labels: width of the classifier.
            activation: of the layers.
            dense: the family's dense layer before the classifier is there (MobileBERT may go without).
        """
        if kind == "sequence":
            return HeadSpec(kind=kind, labels=labels, dense=dense, activation=self.head_activation)
        if kind == "masked_lm":
            chosen = self.masked_lm_activation or activation
            return HeadSpec(kind=kind, activation=chosen, free_decoder=self.free_decoder)
        if kind == "embedding":
            return HeadSpec(kind=kind, pooling="mean")
        return HeadSpec(kind=kind, labels=labels if kind == "token" else 2)

    def has_dense(self, config: Any) -> bool:
        """Whether the pooler of this config has a dense layer."""
        return True

    # --- names ---

    def names(self, blueprint: Blueprint, config: Any) -> Iterator[Pair]:
        """All modules and weights: (theirs, ours).  Several of theirs are one of ours, where ours is shared."""
        yield from _swap(self.embeddings)
        for i, layer in enumerate(blueprint.layers):
            for source, table in ((layer.attention_from, self.attention), (layer.ffn_from, self.ffn)):
                prefix = f"encoder.layers.{i if source is None else source}."
                for ours, theirs in table.items():
                    yield theirs.format(layer=i), prefix + ours
        yield from self.head_names(blueprint.head)

    def head_names(self, head: HeadSpec | None) -> Iterator[Pair]:
        """The modules and weights of a head; for a bare model, those of its pooler."""
        if head is not None and head.kind != "embedding":
            bare = head.kind == "sequence" and not head.labels
            yield from _swap(self.pooler if bare else self.heads[head.kind])

    def weights(self, blueprint: Blueprint, config: Any, ours: Iterable[str]) -> dict[str, str]:
        """Names of weights, theirs to ours, for those of ``ours`` that the family has a name for."""
        wanted = set(ours)
        return {
            theirs + suffix: name + suffix
            for theirs, name in self.names(blueprint, config)
            for suffix in ("", ".weight", ".bias")
            if name + suffix in wanted
        }

    def known_leftovers(self, blueprint: Blueprint) -> frozenset[str]:
        """Their weights that a file may hold without being used: other heads, the pooler, tied copies."""
        modules = {*self.pooler.values(), *self.leftovers, *self.copies}
        modules |= {theirs for table in self.heads.values() for theirs in table.values()}
        return frozenset(module + suffix for module in modules for suffix in ("", ".weight", ".bias"))


def at_least_one(config: Any, field: str) -> int:
    """A field of the config that the family cannot do without.

    Raises:
        ModelError: it is below one.
    """
    value: int = getattr(config, field)
    if value < 1:
        raise ModelError(f"{field}={value} must be at least 1")
    return value


def _swap(table: Names) -> Iterator[Pair]:
    return ((theirs, ours) for ours, theirs in table.items())
