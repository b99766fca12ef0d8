"""Import a model from transformers or sentence-transformers, the hub, an artifact, or a known shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bertpress.encoder.blueprint import Blueprint, HeadSpec
from bertpress.encoder.checkpoint import WEIGHTS, Checkpoint, read_weights
from bertpress.encoder.families import FAMILIES, family_of
from bertpress.encoder.families.base import Family
from bertpress.encoder.head_choice import choose_head, is_bare, own_head
from bertpress.encoder.heads import make_head
from bertpress.encoder.model import SHELLS, BertpressConfig, BertpressModel, BertpressPreTrainedModel, build_model
from bertpress.encoder.sources import CONFIG, Source, find
from bertpress.encoder.tokenizers import check_ids, longest, read_tokenizer
from bertpress.errors import ModelError

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
)


@dataclass(frozen=True)
class Loaded:
    """An imported model.

    Attributes:
        model: in evaluation mode, float32.
        tokenizer_source: folder for ``AutoTokenizer.from_pretrained``; None where there is no tokenizer.
        fine_tuned: the head's weights (or an embedding's pooling) came with the checkpoint.
        id2label: names of the labels, where the head came with the checkpoint and names them.
        source: the folder, hub name or shape.
        revision: the hub's commit.
        random: there were no weights at all: a shape, or a folder with config.json alone.
        max_length: tokens that a sentence-transformers folder truncates to.
    """

    model: BertpressPreTrainedModel
    tokenizer_source: str | None
    fine_tuned: bool
    id2label: dict[int, str] | None
    source: str
    revision: str | None = None
    random: bool = False
    max_length: int | None = None


def load_pretrained(
    model: str | Path, head: HeadSpec | None = None, *, revision: str | None = None, seed: int = 0, **config: Any
) -> Loaded:
    """Import a model, with the head that is asked for.

    A head of the kind and width that the checkpoint has is imported with its weights.  Otherwise a fresh head with the
    family's conventions is put on the imported encoder (on BERT's pooler, where there is one); fields of ``head`` that
    were set explicitly override the conventions.

    Args:
        model: a folder (transformers, sentence-transformers, artifact, or config.json alone), a hub name (also
            ``NAME@REVISION``), or ``shape:NAME``.
        head: what the model shall answer; None takes what the checkpoint has.
        revision: of a hub name.
        seed: of fresh weights.
        **config: further fields of the model's config, such as ``id2label``.

    Raises:
        ModelError: no model there, an unsupported kind, or weights that do not fit the config.
        ArtifactError: an artifact that is damaged.
    """
    source = find(model, revision)
    if source.config.get("model_type") == BertpressConfig.model_type:
        return _artifact(source, head, seed, config)
    with _at(source.place):
        family = family_of(source.config.get("model_type"))
        theirs = transformers_config(family, source.config)
        blueprint = family.blueprint(theirs)
    weights = read_weights(source.folder) if source.folder else None
    place = str(source.folder / WEIGHTS) if source.folder else source.name
    checkpoint = None if weights is None else Checkpoint.of(weights, family, place)
    architecture = (theirs.architectures or [None])[0]
    with _at(source.place):
        own = source.embedding or own_head(family, theirs, architecture, checkpoint)
        chosen, matches = choose_head(family, blueprint, own, head, dense=family.has_dense(theirs))
        fine_tuned = matches and checkpoint is not None and not is_bare(own)
        fields = {**(_labels(theirs, chosen) if matches else {}), **config}
        built = import_model(family, theirs, _with_head(blueprint, chosen), checkpoint, matches, seed, fields)
    return Loaded(
        model=built,
        tokenizer_source=_tokenizer(source),
        fine_tuned=fine_tuned,
        id2label=named_labels(source.config) if fine_tuned else None,
        source=source.name,
        revision=source.revision,
        random=checkpoint is None,
        max_length=source.max_length,
    )


def tokenizer_of(loaded: Loaded) -> Any:
    """The fast tokenizer that lies beside a model; texts longer than the model takes are cut, whatever it permits.

    Raises:
        ModelError: there is none, or not for this model.
    """
    folder = loaded.tokenizer_source
    if folder is None:
        raise ModelError(f"{loaded.source}: has no tokenizer, so it cannot read text")
    tokenizer = read_tokenizer(folder)
    check_ids(tokenizer, loaded.model.blueprint.embeddings.vocabulary, folder)
    if (most := loaded.model.blueprint.longest_input) is not None:
        tokenizer.model_max_length = min(longest(tokenizer.model_max_length), most)
    return tokenizer


def tokenizer_beside(model: str) -> Any | None:
    """The tokenizer that lies beside a model which is not loaded; None where there is none.

    Args:
        model: a folder or a hub name.

    Raises:
        ModelError: there is no such model, or its tokenizer is damaged.
    """
    folder = _tokenizer(find(model))
    return None if folder is None else read_tokenizer(folder)


def from_transformers(model: Any) -> BertpressPreTrainedModel:
    """Our copy of a transformers model that is in memory, head included.

    Raises:
        ModelError: its family, a field of its config, or a weight is not supported.
    """
    theirs, architecture = model.config, type(model).__name__
    family = family_of(theirs.model_type)
    blueprint = family.blueprint(theirs)
    checkpoint = Checkpoint.of(model.state_dict(), family, architecture)
    own = own_head(family, theirs, architecture, checkpoint)
    return import_model(
        family, theirs, _with_head(blueprint, own), checkpoint, True, 0, _labels(theirs, own) if own else {}
    )


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Put the place before an error that does not name it yet."""
    try:
        yield
    except ModelError as error:
        text = str(error)
        folder = place.removesuffix(CONFIG)
        raise ModelError(text if text.startswith(folder) else f"{place}: {text}") from None


def transformers_config(family: Family, fields: Mapping[str, Any]) -> Any:
    """The config object of transformers: fills in the family's defaults and checks types.

    Raises:
        ModelError: a field has a wrong type.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        config = CONFIG_MAPPING[family.model_type](**{k: v for k, v in fields.items() if k != "model_type"})
        if not isinstance(names := config.architectures or [], list) or not all(isinstance(n, str) for n in names):
            raise TypeError(f"architectures={names!r} must be a list of names")
        return config
    except (StrictDataclassError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(" ".join(str(error).split())) from None


def _with_head(blueprint: Blueprint, head: HeadSpec | None) -> Blueprint:
    return blueprint.replace(head=head)


def import_model(
    family: Family,
    theirs: Any,
    blueprint: Blueprint,
    checkpoint: Checkpoint | None,
    own: bool,
    seed: int,
    fields: Mapping[str, Any],
) -> BertpressPreTrainedModel:
    """A model with the checkpoint's weights, and fresh ones where it has none.

    Args:
        family: of the checkpoint.
        theirs: its config.
        blueprint: of our model, head included.
        checkpoint: None makes all weights fresh.
        own: the head is the checkpoint's own, so its weights must be there.
        seed: of fresh weights.
        fields: further fields of our config.
    """
    if checkpoint is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_model(blueprint, **fields)
    with torch.device("meta"):  # the checkpoint's tensors come in place of these; nothing is drawn
        model = build_model(blueprint, **fields)
    state = checkpoint.state(family, blueprint, theirs, model.state_dict(), head=own)
    return _fill(model, state, seed)


def _fill(model: BertpressPreTrainedModel, state: Mapping[str, Tensor], seed: int) -> BertpressPreTrainedModel:
    """Put ``state`` into a model without storage; what it lacks, which is in the head, is drawn."""
    fresh: dict[str, Tensor] = {}
    if model.state_dict().keys() - state.keys():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = make_head(model.blueprint, model.encoder.embeddings.decoder_table)
            assert head is not None
            fresh = {f"head.{name}": tensor for name, tensor in head.apply(model._init_weights).state_dict().items()}
    model.load_state_dict({**fresh, **state}, strict=True, assign=True)
    return model.eval()  # type: ignore[no-any-return]


def _labels(config: Any, head: HeadSpec | None) -> dict[str, Any]:
    """What our config keeps of theirs: label names and the kind of problem."""
    if head is None or head.kind not in ("sequence", "token") or not head.labels:
        return {}
    names = {"id2label": dict(config.id2label), "label2id": dict(config.label2id)}
    return {**names, "problem_type": config.problem_type}


def named_labels(config: Mapping[str, Any]) -> dict[int, str] | None:
    """The label names of a config.json; None where they are placeholders."""
    names = config.get("id2label")
    if not isinstance(names, Mapping) or all(name == f"LABEL_{i}" for i, name in names.items()):
        return None
    return {int(i): str(name) for i, name in names.items()}


def _tokenizer(source: Source) -> str | None:
    for folder in (source.root, source.folder):
        if folder and any((folder / name).is_file() for name in _TOKENIZER_FILES):
            return str(folder)
    return None


def _artifact(source: Source, head: HeadSpec | None, seed: int, config: Mapping[str, Any]) -> Loaded:
    """One of our own folders; with another head, its encoder under a fresh one."""
    assert source.folder is not None
    shells: dict[str, type[BertpressPreTrainedModel]] = {s.__name__: s for s in (*SHELLS, BertpressModel)}
    names = source.config.get("architectures") or ["BertpressModel"]
    name = names[0] if isinstance(names, list) else names
    if not isinstance(name, str) or name not in shells:
        raise ModelError(f"{source.place}: architectures={name!r} must be one of {', '.join(shells)}")
    if not list(source.folder.glob("*.safetensors")):
        raise ModelError(f"{source.folder / WEIGHTS}: no such file")
    try:
        model = shells[name].from_pretrained(source.folder)
    except ValueError as error:
        raise ModelError(f"{source.folder}: {' '.join(str(error).split())}") from None
    family = FAMILIES.get(model.blueprint.family, FAMILIES["bert"])
    chosen, matches = choose_head(family, model.blueprint, model.blueprint.head, head)
    if not matches:
        model = _with_fresh_head(model, chosen, seed)
    for key, value in config.items():
        setattr(model.config, key, value)
    return Loaded(
        model=model,
        tokenizer_source=_tokenizer(source),
        fine_tuned=matches and not is_bare(chosen),
        id2label=named_labels(source.config) if matches else None,
        source=source.name,
        revision=source.revision,
    )


def _with_fresh_head(model: BertpressPreTrainedModel, head: HeadSpec | None, seed: int) -> BertpressPreTrainedModel:
    """The same encoder under another head, in float: there are no scales yet for what a new head reads."""
    with torch.device("meta"):
        new = build_model(model.blueprint.with_float_activations().replace(head=head))
    wanted = new.state_dict()
    old = {name: tensor for name, tensor in model.state_dict().items() if name in wanted}
    pooled = is_bare(model.blueprint.head) and head is not None and head.kind == "sequence"
    kept = ("encoder.", "head.dense.") if pooled else ("encoder.",)
    return _fill(new, {name: tensor for name, tensor in old.items() if name.startswith(kept)}, seed)
