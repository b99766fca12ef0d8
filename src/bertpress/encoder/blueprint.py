"""The shape of an encoder as data: everything that changes its forward pass or its file.

A :class:`Blueprint` is frozen and validated; from it alone follow the numbers of parameters and of
multiply-accumulates per component (:mod:`bertpress.encoder.costs`), so that a search can reason without weights.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bertpress.encoder.exit_specs import ExitRule as ExitRule
from bertpress.encoder.exit_specs import ExitSpec as ExitSpec
from bertpress.encoder.head_specs import HeadKind as HeadKind
from bertpress.encoder.head_specs import HeadSpec as HeadSpec
from bertpress.encoder.layer_spec import NO_HEADS as NO_HEADS
from bertpress.encoder.layer_spec import AttentionSpec as AttentionSpec
from bertpress.encoder.layer_spec import BottleneckSpec as BottleneckSpec
from bertpress.encoder.layer_spec import LayerSpec as LayerSpec
from bertpress.encoder.mixer_specs import CellSpec as CellSpec
from bertpress.encoder.mixer_specs import ConvolutionSpec as ConvolutionSpec
from bertpress.encoder.mixer_specs import LstmSpec as LstmSpec
from bertpress.encoder.mixer_specs import ShorteningSpec as ShorteningSpec
from bertpress.encoder.rank_specs import AttentionRanks as AttentionRanks
from bertpress.encoder.rank_specs import NetworkRanks as NetworkRanks
from bertpress.encoder.spec import Activation as Activation
from bertpress.encoder.spec import Norm as Norm
from bertpress.encoder.spec import Size as Size
from bertpress.encoder.spec import Spec as Spec
from bertpress.encoder.spec import Width as Width
from bertpress.encoder.token_specs import check_tokens

Scales = Literal["static", "dynamic"]
SecondPositions = Literal["running", "restart"]


class EmbeddingSpec(Spec):
    """Token, position and segment tables of width ``size``, summed; a projection follows where ``size`` differs.

    BERT adds the three tables, normalises, and has ``size == hidden_size``.  ALBERT and ELECTRA project after
    the norm (``project="after"``).  MobileBERT projects the token table alone, three neighbours at once
    (``window=3``, ``project="tokens"``), so its position and segment tables have the hidden width.  With
    ``codebooks``, a token has a code for each of them, and its vector is the sum of the entries that they name.
    """

    vocabulary: Size
    size: Size
    codebooks: Annotated[int, Field(ge=0, le=1024)] = 0
    entries: Annotated[int, Field(ge=0, le=256, description="Vectors in each codebook.")] = 0
    positions: Width = 512
    segments: Width = 2
    window: Literal[1, 3] = 1
    project: Literal["none", "after", "tokens"] = "none"
    first_position: int = Field(0, ge=0, description="RoBERTa and MPNet count positions from padding id + 1.")
    second_positions: SecondPositions = Field("running", description="restart: the second segment counts anew.")
    pad_id: int = Field(0, ge=0)
    norm: Norm = "layer"

    @model_validator(mode="after")
    def _coded(self) -> "EmbeddingSpec":
        if bool(self.codebooks) != bool(self.entries):
            raise ValueError(f"entries={self.entries} must go with codebooks={self.codebooks}")
        return self

    @property
    def factorized(self) -> bool:
        """Whether the token table alone is projected, token by token, so that a tied decoder can be too."""
        return self.project == "tokens" and self.window == 1


class RelativeSpec(Spec):
    """MPNet's bias on attention scores: a table (buckets, heads), shared by all layers, looked up by head id."""

    buckets: Size = 32
    max_distance: Size = 128
    heads: Size


Share = Annotated[float, Field(gt=0, le=1)]


class ElasticSpec(Spec):
    """The shares of itself that a model was trained to run as (DynaBERT): widths of its layers, and its depth.

    Heads and neurons lie in descending importance, so that a width is the first of each.
    """

    widths: tuple[Share, ...] = Field(min_length=1)
    depths: tuple[Share, ...] = Field(min_length=1)


class Blueprint(Spec):
    """The whole encoder. ``family`` says where it came from and so decides the way back to transformers."""

    family: str = "bert"
    hidden_size: Size
    embeddings: EmbeddingSpec
    relative: RelativeSpec | None = None
    shortening: ShorteningSpec | None = None
    layers: tuple[LayerSpec, ...]
    head: HeadSpec | None = None
    norm_epsilon: float = Field(1e-12, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    attention_dropout: float = Field(0.1, ge=0, lt=1)
    smoothed: bool = Field(False, description="Slots of the layers multiply each channel by a factor of its own.")
    activation_bits: int | None = Field(None, ge=2, le=8, description="The named slots carry quantizers of so many.")
    activation_scales: Scales = Field("static", description="One for a slot; dynamic: each token's own, at run time.")
    quantized_maps: bool = Field(False, description="Attention maps and values carry quantizers too; static scales.")
    elastic: ElasticSpec | None = Field(None, description="The sub-networks that can be cut out of the model.")
    exit: ExitRule | None = Field(None, description="When a text leaves at one of the layers' exits.")

    @model_validator(mode="after")
    def _consistent(self) -> "Blueprint":
        if self.quantized_maps and (self.activation_bits is None or self.activation_scales == "dynamic"):
            raise ValueError("quantized_maps=true must go with activation_bits and static activation_scales")
        if self.embeddings.project == "none" and self.embeddings.size != self.hidden_size:
            raise ValueError(
                f"embeddings.size={self.embeddings.size} must be hidden_size={self.hidden_size}, or projected"
            )
        halved = any(layer.mixer and layer.mixer.kind == "lstm" for layer in self.layers)
        if self.hidden_size % 2 and (halved or (self.head and self.head.pooling == "ends")):
            raise ValueError(f"hidden_size={self.hidden_size} must be even: each direction of an LSTM has half of it")
        self._check_exits()
        check_tokens(self)
        for i, layer in enumerate(self.layers):
            for name in ("attention_from", "ffn_from"):
                source = getattr(layer, name)
                if source is None:
                    continue
                if source >= i or getattr(self.layers[source], name) is not None:
                    raise ValueError(f"layers.{i}.{name}={source} must be an earlier layer that owns its weights")
                unit = name.removesuffix("_from")
                parts = ("attention", "mixer") if unit == "attention" else ("ffn", "ffn_ranks")
                if any(getattr(self.layers[source], part) != getattr(layer, part) for part in parts):
                    raise ValueError(f"layers.{i}.{unit} must have the shape of layer {source}, whose weights it uses")
            if self.relative and max(layer.attention.heads, default=0) >= self.relative.heads:
                raise ValueError(f"layers.{i}.attention.heads must be below relative.heads={self.relative.heads}")
        return self

    @model_validator(mode="after")
    def _apart_from_below(self) -> "Blueprint":
        separate = [i for i, layer in enumerate(self.layers) if layer.separate]
        if separate != list(range(len(separate))):
            raise ValueError(f"layers.{separate[-1]}.separate=true must not lie above a layer where the segments meet")
        joining = {
            "a relative bias": self.relative is not None,
            "a shortened sequence": self.shortening is not None,
            "a siamese head": self.head is not None and self.head.siamese,
            "convolutions, LSTMs or cells": any(layer.mixer is not None for layer in self.layers),
            "embeddings of three tokens": self.embeddings.window > 1,
            "a single segment": self.embeddings.segments == 1,
        }
        if separate and (found := [name for name, there in joining.items() if there]):
            raise ValueError(f"layers.0.separate=true must go without {found[0]}, which would let the segments meet")
        return self

    @model_validator(mode="after")
    def _patterned(self) -> "Blueprint":
        shared = set()
        for i, layer in enumerate(self.layers):
            pattern = layer.attention.pattern
            if pattern is None:
                continue
            if self.relative and not pattern.biased:
                raise ValueError(f"layers.{i}.attention.pattern={pattern.kind} cannot take the relative bias")
            if layer.separate and not pattern.biased:
                raise ValueError(f"layers.{i}.attention.pattern={pattern.kind} cannot keep the segments apart")
            if pattern.kind == "linformer" and pattern.sharing == "layers":
                shared.add((pattern.size, pattern.length))
        if len(shared) > 1:
            raise ValueError(f"layers that share one compression must agree on size and length, not {sorted(shared)}")
        return self

    def _check_exits(self) -> None:
        early = [i for i, layer in enumerate(self.layers) if layer.exit is not None]
        if early and early[-1] == len(self.layers) - 1:
            raise ValueError(f"layers.{early[-1]}.exit must be null: the model's own head is behind the last layer")
        if bool(early) != (self.exit is not None):
            raise ValueError("exit must be given where layers have exits, and nowhere else")
        if self.exit is not None and (reason := self.exit_obstacle) is not None:
            raise ValueError(f"exit must not be given: {reason}")

    @property
    def exit_obstacle(self) -> str | None:
        """Why no text may leave before the last layer; None where exits can be put."""
        if self.head is None or self.head.kind != "sequence" or not self.head.labels:
            return "exits answer whole texts, with a head of kind sequence"
        if not self.by_token or self.head.pooling == "ends" or any(layer.reads_two for layer in self.layers):
            return "exits need a state for each token behind every layer, and layers that read the one before alone"
        if self.separate:
            return "exits pool over both texts, which the lower layers keep apart"
        return None if len(self.layers) > 1 else "there is one layer only"

    @property
    def exits(self) -> tuple[int, ...]:
        """The layers, from 1, behind which a text may leave; the last is where the model's own head is."""
        return (*(i for i, layer in enumerate(self.layers, 1) if layer.exit is not None), len(self.layers))

    def parameters(self) -> dict[str, int]:
        """Numbers of stored weights by component (shared and tied weights once)."""
        from bertpress.encoder import costs

        return costs.parameters(self)

    def macs(self, tokens: int, cached: int = 0) -> dict[str, int]:
        """Multiply-accumulates by component for one input of ``tokens`` tokens; FLOPs are twice that.

        Args:
            tokens: of the whole input.
            cached: how many of them come as states of the last separate layer.
        """
        from bertpress.encoder import costs

        return costs.macs(self, tokens, cached)

    @property
    def total_parameters(self) -> int:
        """All stored weights."""
        return sum(self.parameters().values())

    @property
    def parameters_without_embeddings(self) -> int:
        """All stored weights but the embedding tables, their projection and their norm."""
        return self.total_parameters - self.parameters()["embeddings"]

    @property
    def projects_decoder(self) -> bool:
        """Whether a tied decoder multiplies by the token vectors as their projection gives them."""
        return self.embeddings.factorized and self.head is not None and not self.head.free_decoder

    @property
    def reads_segments(self) -> bool:
        """Whether it matters which segment a token is in."""
        siamese = self.head is not None and self.head.siamese
        return self.embeddings.segments > 1 or siamese or self.separate > 0

    @property
    def longest_input(self) -> int | None:
        """Tokens that the position table allows; None without one."""
        table = self.embeddings
        return max(1, table.positions - table.first_position) if table.positions else None

    @property
    def separate(self) -> int:
        """Layers, from below, in which the two segments do not see each other."""
        return next((i for i, layer in enumerate(self.layers) if not layer.separate), len(self.layers))

    @property
    def cacheable(self) -> bool:
        """Whether the second segment's states above the separate layers depend on it alone."""
        return self.separate > 0 and self.embeddings.second_positions == "restart"

    @property
    def by_token(self) -> bool:
        """Whether every layer has a state for each token: none works on a shortened sequence or on a half of a pair."""
        return self.shortening is None and not (self.head is not None and self.head.siamese) and not self.shrinks

    @property
    def shrinks(self) -> bool:
        """Whether tokens leave on the way."""
        return any(layer.leave is not None for layer in self.layers)

    @property
    def maps(self) -> bool:
        """Whether every attention has a map of tokens by tokens."""
        patterns = [layer.attention.pattern for layer in self.layers if layer.attention.heads]
        return all(pattern is None or pattern.maps for pattern in patterns)

    def with_float_activations(self) -> "Blueprint":
        """The same encoder without quantizers at its slots."""
        return self.replace(activation_bits=None, activation_scales="static", quantized_maps=False)

    def with_layers(self, layers: tuple[LayerSpec, ...]) -> "Blueprint":
        """The same encoder with other layers, validated again."""
        return self.replace(layers=layers)

    def replace(self, **changes: object) -> "Blueprint":
        """A validated copy with some fields changed."""
        return Blueprint(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})


def uniform(
    *,
    layers: int,
    hidden_size: int,
    heads: int,
    ffn: int,
    vocabulary: int = 30522,
    positions: int = 512,
    head: HeadSpec | None = None,
    activation: Activation = "gelu",
    dropout: float = 0.1,
) -> Blueprint:
    """A BERT of equal layers; BERT-base is ``uniform(layers=12, hidden_size=768, heads=12, ffn=3072)``."""
    if hidden_size % heads:
        raise ValueError(f"hidden_size={hidden_size} must be a multiple of heads={heads}")
    size = hidden_size // heads
    attention = AttentionSpec(heads=tuple(range(heads)), head_size=size, value_size=size)
    layer = LayerSpec(attention=attention, ffn=(ffn,), activation=activation)
    return Blueprint(
        hidden_size=hidden_size,
        embeddings=EmbeddingSpec(vocabulary=vocabulary, size=hidden_size, positions=positions),
        layers=(layer,) * layers,
        head=head,
        dropout=dropout,
        attention_dropout=dropout,
    )
