"""The shape of an encoder as data: everything that changes its forward pass or its file.

A :class:`Blueprint` is frozen and validated; from it alone follow the numbers of parameters and of
multiply-accumulates per component (:mod:`bertpress.encoder.costs`), so that a search can reason without weights.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bertpress.encoder.exit_specs import ExitRule as ExitRule
from bertpress.encoder.exit_specs import ExitSpec as ExitSpec
from bertpress.encoder.mixer_specs import AnyMixer
from bertpress.encoder.mixer_specs import CellSpec as CellSpec
from bertpress.encoder.mixer_specs import ConvolutionSpec as ConvolutionSpec
from bertpress.encoder.mixer_specs import LstmSpec as LstmSpec
from bertpress.encoder.mixer_specs import ShorteningSpec as ShorteningSpec
from bertpress.encoder.spec import Norm as Norm
from bertpress.encoder.spec import Spec as Spec

Size = Annotated[int, Field(ge=1, le=2**20)]
Width = Annotated[int, Field(ge=0, le=2**20)]
Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "tanh", "none"]
Scales = Literal["static", "dynamic"]


class EmbeddingSpec(Spec):
    """Token, position and segment tables of width ``size``, summed; a projection follows where ``size`` differs.

    BERT adds the three tables, normalises, and has ``size == hidden_size``.  ALBERT and ELECTRA project after
    the norm (``project="after"``).  MobileBERT projects the token table alone, three neighbours at once
    (``window=3``, ``project="tokens"``), so its position and segment tables have the hidden width.
    """

    vocabulary: Size
    size: Size
    positions: Width = 512
    segments: Width = 2
    window: Literal[1, 3] = 1
    project: Literal["none", "after", "tokens"] = "none"
    first_position: int = Field(0, ge=0, description="RoBERTa and MPNet count positions from padding id + 1.")
    pad_id: int = Field(0, ge=0)
    norm: Norm = "layer"


class RelativeSpec(Spec):
    """MPNet's bias on attention scores: a table (buckets, heads), shared by all layers, looked up by head id."""

    buckets: Size = 32
    max_distance: Size = 128
    heads: Size


class AttentionSpec(Spec):
    """One self-attention sub-unit.

    ``heads`` holds the ids of the heads that are left, as numbered in the model that they came from, in order.
    With no head left the sub-unit still adds its output bias and normalises.
    """

    heads: tuple[int, ...]
    head_size: Size = Field(description="Width of queries and keys in each head.")
    value_size: Size = Field(description="Width of values in each head.")
    scale: float | None = Field(None, gt=0, description="Factor on the scores; None: 1 / sqrt(head_size).")

    @model_validator(mode="after")
    def _ordered(self) -> "AttentionSpec":
        if any(a >= b for a, b in zip(self.heads, self.heads[1:], strict=False)) or min(self.heads, default=0) < 0:
            raise ValueError(f"heads={self.heads} must be non-negative and strictly increasing")
        return self

    @property
    def query_width(self) -> int:
        """Rows of the query and key matrices."""
        return len(self.heads) * self.head_size

    @property
    def value_width(self) -> int:
        """Rows of the value matrix, columns of the output matrix."""
        return len(self.heads) * self.value_size


class BottleneckSpec(Spec):
    """MobileBERT: a layer works in ``size`` dimensions between a linear map in and one out.

    ``attention_input`` says what queries and keys / values read: ``shared``: a bottleneck of their own for queries
    and keys, the raw input for values; ``hidden``: the raw input for all; ``inner``: the layer's bottleneck for all.
    """

    size: Size
    attention_input: Literal["shared", "hidden", "inner"] = "shared"


NO_HEADS = AttentionSpec(heads=(), head_size=1, value_size=1)
"""The attention of a layer that mixes its tokens by something else."""


class LayerSpec(Spec):
    """One encoder layer: attention (or another mixer of tokens), then the feed-forward networks.

    ``attention_from`` / ``ffn_from`` name an earlier layer whose weights this sub-unit uses (ALBERT).
    """

    attention: AttentionSpec
    mixer: AnyMixer | None = None
    ffn: tuple[Width, ...] = Field(description="Widths of the stacked feed-forward networks.")
    activation: Activation = "gelu"
    norm: Norm = "layer"
    bottleneck: BottleneckSpec | None = None
    attention_from: int | None = Field(None, ge=0)
    ffn_from: int | None = Field(None, ge=0)
    exit: ExitSpec | None = Field(None, description="A head of its own, where a text may leave.")
    origin: int | None = Field(None, ge=0, description="Its number in the model that it was cut from.")

    @model_validator(mode="after")
    def _mixes_once(self) -> "LayerSpec":
        if self.mixer is None and not self.ffn:
            raise ValueError("ffn=() must go with a mixer")
        if self.mixer is not None and (self.attention.heads or self.bottleneck):
            raise ValueError(f"mixer={self.mixer.kind} must go without heads and bottleneck")
        return self

    @property
    def reads_two(self) -> bool:
        """Whether it reads the output of the layer before the last, too."""
        return self.mixer is not None and self.mixer.kind == "cell"


HeadKind = Literal["sequence", "token", "span", "masked_lm", "embedding"]


class HeadSpec(Spec):
    """What turns hidden states into answers.

    ``sequence``: pool, optional dense layer, classifier.  ``token``: classifier on each token.  ``span``: start and
    end scores.  ``masked_lm``: dense, norm, decoder tied to the token table.  ``embedding``: pool, and normalise.
    """

    kind: HeadKind
    labels: Width = Field(2, description="Width of the classifier; 1 is a regression or a reranker.")
    pooling: Literal["cls", "mean", "max", "ends"] = Field(
        "cls", description="ends: the first half of the last state, the second half of the first (recurrent layers)."
    )
    dense: bool = Field(True, description="A dense layer before the classifier.")
    dense_size: Size | None = Field(None, description="Its width; None: the hidden width.")
    siamese: bool = Field(False, description="Sequence: encode both segments apart, compare what was pooled.")
    activation: Activation = "tanh"
    normalize: bool = Field(True, description="Embedding: scale to unit length.")
    free_decoder: bool = Field(False, description="MobileBERT: hidden - embedding size decoder columns are untied.")

    @model_validator(mode="after")
    def _of_sequences(self) -> "HeadSpec":
        if self.siamese and self.kind != "sequence":
            raise ValueError(f"siamese=true must go with kind=sequence, not {self.kind}")
        return self


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
        for i, layer in enumerate(self.layers):
            for name in ("attention_from", "ffn_from"):
                source = getattr(layer, name)
                if source is None:
                    continue
                if source >= i or getattr(self.layers[source], name) is not None:
                    raise ValueError(f"layers.{i}.{name}={source} must be an earlier layer that owns its weights")
                unit = name.removesuffix("_from")
                parts = ("attention", "mixer") if unit == "attention" else (unit,)
                if any(getattr(self.layers[source], part) != getattr(layer, part) for part in parts):
                    raise ValueError(f"layers.{i}.{unit} must have the shape of layer {source}, whose weights it uses")
            if self.relative and max(layer.attention.heads, default=0) >= self.relative.heads:
                raise ValueError(f"layers.{i}.attention.heads must be below relative.heads={self.relative.heads}")
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
        return None if len(self.layers) > 1 else "there is one layer only"

    @property
    def exits(self) -> tuple[int, ...]:
        """The layers, from 1, behind which a text may leave; the last is where the model's own head is."""
        return (*(i for i, layer in enumerate(self.layers, 1) if layer.exit is not None), len(self.layers))

    def parameters(self) -> dict[str, int]:
        """Numbers of stored weights by component (shared and tied weights once)."""
        from bertpress.encoder import costs

        return costs.parameters(self)

    def macs(self, tokens: int) -> dict[str, int]:
        """Multiply-accumulates by component for one input of ``tokens`` tokens; FLOPs are twice that."""
        from bertpress.encoder import costs

        return costs.macs(self, tokens)

    @property
    def total_parameters(self) -> int:
        """All stored weights."""
        return sum(self.parameters().values())

    @property
    def parameters_without_embeddings(self) -> int:
        """All stored weights but the embedding tables, their projection and their norm."""
        return self.total_parameters - self.parameters()["embeddings"]

    @property
    def reads_segments(self) -> bool:
        """Whether it matters which segment a token is in."""
        return self.embeddings.segments > 1 or (self.head is not None and self.head.siamese)

    @property
    def by_token(self) -> bool:
        """Whether every layer has a state for each token: none works on a shortened sequence or on a half of a pair."""
        return self.shortening is None and not (self.head is not None and self.head.siamese)

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
