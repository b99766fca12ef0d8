"""The encoder and its PreTrainedModel shells: one class for each head that the Auto classes know."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from bertpress.encoder.attention import RelativeBias
from bertpress.encoder.attention_masks import Masks, additive_mask, own_segment
from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.config import BertpressConfig as BertpressConfig
from bertpress.encoder.heads import apart, label_loss, make_head, span_loss
from bertpress.encoder.layers import CodeTable, Embeddings, EncoderLayer
from bertpress.encoder.linformer import shared_compression
from bertpress.encoder.mixers import Lstm, Shortening
from bertpress.encoder.passing import through
from bertpress.encoder.patterns import lend
from bertpress.encoder.slots import Tape
from bertpress.errors import ModelError


def all_layers(encoder: Encoder) -> Iterator[EncoderLayer]:
    """The default layer plan: every layer, in order."""
    yield from encoder.layers  # type: ignore[misc]


class Encoder(nn.Module):
    """Embeddings and the layers that the plan names.

    ``plan`` decides at each pass which layers run; methods replace it (LayerDrop, Theseus, early exits, depth).
    """

    def __init__(self, blueprint: Blueprint) -> None:
        super().__init__()
        self.embeddings = Embeddings(blueprint)
        self.relative = RelativeBias(blueprint.relative) if blueprint.relative else None
        self.shortening = Shortening(blueprint.shortening, blueprint) if blueprint.shortening else None
        self.layers = nn.ModuleList(EncoderLayer(spec, blueprint) for spec in blueprint.layers)
        self.separate = blueprint.separate > 0
        self.compression = shared_compression(blueprint.layers)
        lend(self.compression, self.layers)
        self.plan: Callable[[Encoder], Iterator[EncoderLayer]] = all_layers

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None, segment_ids: Tensor | None, tape: Tape
    ) -> tuple[Tensor, Tensor | None]:
        """(batch, tokens) ids to hidden states (batch, tokens, hidden), and the mask of the tokens that are left."""
        hidden = entered = self.embeddings(input_ids, segment_ids)
        mask = additive_mask(attention_mask, hidden.dtype)
        if self.shortening is not None:
            hidden, mask = self.shortening.shorten(hidden, mask)
        tape.put("hidden_states", hidden)
        own = mask
        if segment_ids is not None and self.separate:
            own = own_segment(mask, segment_ids, hidden.dtype)
        masks = Masks(attention_mask, mask, own)
        hidden, left = through(self.plan(self), self.layers, self.relative, hidden, masks, tape)
        return hidden if self.shortening is None else self.shortening.restore(hidden, entered), left


@dataclass
class EncoderOutput(ModelOutput):  # type: ignore[misc]
    """What a forward pass gives; ``captured`` holds, by name, the tensors that were asked for."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    captured: dict[str, tuple[Tensor, ...]] | None = None


Unpacker = Callable[[Path], "tuple[dict[str, Tensor], dict[str, Any]] | None"]
unpackers: list[Unpacker] = []
"""Given a folder: (decoded state dict, storage plan) if its weights are packed, else None.  Filled by the artifact
package, so that ``from_pretrained`` reads packed files while the encoder knows nothing of codecs."""


class BertpressPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """Encoder plus head, in the shell that transformers knows."""

    config_class = BertpressConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    _supports_sdpa = True
    kinds: ClassVar[frozenset[str | None]] = frozenset({None})

    def __init__(self, config: BertpressConfig) -> None:
        super().__init__(config)
        # never used; tracing looks at it, and transformers warns of a class for which it knows none
        self.loss_type = "ForSequenceClassification"
        self.blueprint = config.shape
        self.encoder = Encoder(self.blueprint)
        self.head = make_head(self.blueprint, self.encoder.embeddings.decoder_table)
        self.storage: dict[str, Any] = {}
        if self.blueprint.smoothed:
            for layer in self.encoder.layers:
                assert isinstance(layer, EncoderLayer)
                for slot, readers in layer.readers():
                    slot.register_buffer("factor", torch.ones(readers[0].in_features))
        if self.blueprint.activation_bits:
            from bertpress.encoder.quantizers import fill_slots

            fill_slots(self, self.blueprint)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data.normal_(std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.data.zero_()
        elif isinstance(module, Lstm | CodeTable):
            module.initialize()

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str] | None, *args: Any, **kwargs: Any) -> Any:
        """Load a folder; packed artifacts are decoded on the way."""
        if folder is not None and Path(folder).is_dir():
            for unpack in unpackers:
                if (packed := unpack(Path(folder))) is not None:
                    config = kwargs.get("config") or BertpressConfig.read(folder)
                    return cls.filled(config, *packed)
        return super().from_pretrained(folder, *args, **kwargs)

    @classmethod
    def filled(cls, config: BertpressConfig, state: dict[str, Tensor], storage: dict[str, Any]) -> Any:
        """A model with these weights, in evaluation mode.

        Raises:
            ModelError: a weight is missing, left over or of another shape; names the first.
        """
        model = cls(config)
        own = model.state_dict()
        for name in sorted({*own, *state}):
            here, there = (tuple(side[name].shape) if name in side else None for side in (own, state))
            if here != there:
                raise ModelError(f"{name}: the shape by config.json is {here}, the weights have {there}")
        model.load_state_dict(state)
        model.storage = storage
        return model.eval()

    def get_input_embeddings(self) -> nn.Module:
        """The token table."""
        return self.encoder.embeddings.word

    def unique_weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every stored weight once, by name: the only way to walk over weights.

        A weight under transforms keeps its name; it is the one that is trained, below them.  What the transforms train
        beside it (scores, second halves) is none of the model's.
        """
        for name, weight in self.named_parameters(remove_duplicate=True):
            if ".parametrizations." not in name or name.endswith(".original"):
                yield name.replace(".parametrizations.", ".").removesuffix(".original"), weight

    def get_parameter(self, target: str) -> nn.Parameter:
        """The weight that :meth:`unique_weights` gives under this name."""
        owner, _, attribute = target.rpartition(".")
        if parametrize.is_parametrized(self.get_submodule(owner), attribute):
            target = f"{owner}.parametrizations.{attribute}.original"
        return super().get_parameter(target)  # type: ignore[no-any-return]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        capture: frozenset[str] = frozenset(),
        return_dict: bool | None = None,
        **ignored: Any,
    ) -> EncoderOutput | tuple[Any, ...]:
        """Run the encoder and the head.

        Args:
            input_ids: (batch, tokens) ids.
            attention_mask: (batch, tokens), 1 for tokens and 0 for pads.
            token_type_ids: (batch, tokens) segment ids; zeros where absent.
            labels: (batch,) classes, (batch, labels) floats, (batch, tokens) tags; gives ``loss``.
            start_positions: (batch,), with ``end_positions``: the answer's first token.
            end_positions: (batch,) the answer's last token.
            output_hidden_states: as in transformers.
            output_attentions: as in transformers; costs the fused attention kernel.
            capture: names of :class:`Tape`.
            return_dict: False gives a tuple.
            **ignored: arguments of other models, so that generic callers work.
        """
        wanted = set(capture)
        wanted |= {"hidden_states"} if output_hidden_states else set()
        wanted |= {"attentions"} if output_attentions else set()
        wanted |= {"exits"} if self.blueprint.exit is not None else set()
        tape = Tape(frozenset(wanted))
        if self.blueprint.head is not None and self.blueprint.head.siamese:
            pad = self.blueprint.embeddings.pad_id
            input_ids, attention_mask = apart(input_ids, attention_mask, token_type_ids, pad)
            token_type_ids = None
        hidden, left = self.encoder(input_ids, attention_mask, token_type_ids, tape)
        out = EncoderOutput(last_hidden_state=hidden)
        if self.head is not None:
            self._answer(out, self.head(hidden, left), labels, start_positions, end_positions)
        if wanted:
            taken = tape.captured()
            out.hidden_states, out.attentions, out.captured = (
                taken.get("hidden_states"),
                taken.get("attentions"),
                taken,
            )
        return out.to_tuple() if return_dict is False else out

    def _answer(
        self,
        out: EncoderOutput,
        logits: Tensor,
        labels: Tensor | None,
        start: Tensor | None,
        end: Tensor | None,
    ) -> None:
        """Fill in logits and, where labels are given, the loss that transformers would give."""
        head = self.blueprint.head
        if head is None or (head.kind == "sequence" and not head.labels):
            out.pooler_output = logits
            return
        out.logits = logits
        if head.kind == "span":
            out.start_logits, out.end_logits = logits[..., 0], logits[..., 1]
            if start is not None and end is not None:
                out.loss = span_loss(out.start_logits, start) / 2 + span_loss(out.end_logits, end) / 2
        elif labels is not None and head.kind != "embedding":
            out.loss = label_loss(logits, labels, multi_label=self.config.problem_type == "multi_label_classification")


class BertpressModel(BertpressPreTrainedModel):
    """The encoder alone, or with BERT's pooler."""


class BertpressForSequenceClassification(BertpressPreTrainedModel):
    """One text or a pair to classes, or to one number."""

    kinds = frozenset({"sequence"})


class BertpressForTokenClassification(BertpressPreTrainedModel):
    """A class for each token."""

    kinds = frozenset({"token"})


class BertpressForQuestionAnswering(BertpressPreTrainedModel):
    """Start and end scores of the answer."""

    kinds = frozenset({"span"})


class BertpressForMaskedLM(BertpressPreTrainedModel):
    """Scores of the vocabulary at each position."""

    kinds = frozenset({"masked_lm"})


class BertpressForSentenceEmbedding(BertpressPreTrainedModel):
    """One vector a text."""

    kinds = frozenset({"embedding"})


SHELLS: tuple[type[BertpressPreTrainedModel], ...] = (
    BertpressForSequenceClassification,
    BertpressForTokenClassification,
    BertpressForQuestionAnswering,
    BertpressForMaskedLM,
    BertpressForSentenceEmbedding,
)


def build_model(blueprint: Blueprint, **config: Any) -> BertpressPreTrainedModel:
    """A model with fresh weights, in the class that fits ``blueprint.head``; ``config`` goes to the config."""
    kind = blueprint.head.kind if blueprint.head else None
    if blueprint.head and kind == "sequence" and not blueprint.head.labels:
        kind = None
    shell = next((shell for shell in SHELLS if kind in shell.kinds), BertpressModel)
    model: BertpressPreTrainedModel = shell(BertpressConfig(blueprint=blueprint, **config))
    model.config.architectures = [shell.__name__]
    model.eval()
    return model
