"""Back to plain transformers, and to sentence-transformers: folders that need nothing of ours.

A transformers config has one width for all layers.  Whether it can say what a blueprint says is not argued case by
case: the config is written, read back into a blueprint, and the first difference is the reason of a refusal.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bertpress.artifact.folder import staged
from bertpress.encoder.blueprint import Blueprint, HeadKind, HeadSpec, LayerSpec, Spec
from bertpress.encoder.checkpoint import WEIGHTS
from bertpress.encoder.families import family_of
from bertpress.encoder.families.base import BASE, Family
from bertpress.encoder.head_choice import RELEVANT, is_bare
from bertpress.encoder.imports import transformers_config
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.errors import BertpressError, ModelError

ENDINGS: dict[HeadKind, str] = {
    "sequence": "ForSequenceClassification",
    "token": "ForTokenClassification",
    "span": "ForQuestionAnswering",
    "masked_lm": "ForMaskedLM",
    "embedding": "Model",
}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_UNUSED = ("pooler.", "embeddings.embedding_transformation.")
"""Weights that a bare transformers model always has and that do not touch its hidden states: written as zeros."""
_OTHERS = "; openvino, onnx and bertpress formats work"


def to_transformers(model: BertpressPreTrainedModel) -> Any:
    """A transformers ``PreTrainedModel`` with copies of the weights, in evaluation mode.

    Quantizers of activations stay behind: the weights keep the values of their grid, activations are floats.  A
    sentence embedding becomes the bare model; its pooling is in the modules that :func:`save_transformers` writes.

    Raises:
        ModelError: layers differ, or the family has no place for some part; names it.
    """
    config, state = _exported(model)
    built = _class(config)(config)
    built.load_state_dict(state, strict=False)  # strict but for tied copies: _completed has compared all names
    return built.eval()


def save_transformers(
    model: BertpressPreTrainedModel,
    folder: str | Path,
    tokenizer: Any = None,
    *,
    max_length: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a plain transformers folder; for a sentence embedding one of sentence-transformers, which is both.

    Args:
        model: ours.
        folder: where; appears whole or not at all.
        tokenizer: a transformers tokenizer, or a folder that has its files; None writes none.
        max_length: tokens that sentence-transformers truncates to; all positions by default.
        overwrite: replace a folder that is there.

    Raises:
        ModelError: as :func:`to_transformers`; nothing is written.
    """
    config, state = _exported(model)
    target = Path(folder).absolute()
    needed = sum(tensor.nbytes for tensor in state.values())
    with staged(target, needed_bytes=needed, overwrite=overwrite) as partial:
        save_file(state, partial / WEIGHTS, metadata={"format": "pt"})
        config.save_pretrained(partial)
        if isinstance(tokenizer, str | Path):
            for name in TOKENIZER_FILES:
                if (Path(tokenizer) / name).is_file():
                    shutil.copyfile(Path(tokenizer) / name, partial / name)
        elif tokenizer is not None:
            tokenizer.save_pretrained(partial)
        head = model.blueprint.head
        if head is not None and head.kind == "embedding":
            _sentence_modules(head, model.blueprint, max_length, partial)
    return target


def _sentence_modules(head: HeadSpec, blueprint: Blueprint, max_length: int | None, folder: Path) -> None:
    """The files by which sentence-transformers (2 to 6) builds the same head."""
    package = "sentence_transformers.models."
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")] + [("Normalize", "2_Normalize")] * head.normalize
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": package + kind} for i, (kind, path) in enumerate(modules)
    ]
    length = max_length or blueprint.longest_input or 512
    pooling = {"word_embedding_dimension": blueprint.hidden_size}
    names = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
    pooling |= {f"pooling_mode_{name}": head.pooling == mode for mode, name in names.items()}
    for _, path in modules[1:]:
        (folder / path).mkdir()
    _write_json(folder / "modules.json", listed)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
    _write_json(folder / "1_Pooling" / "config.json", pooling)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _exported(model: BertpressPreTrainedModel) -> tuple[Any, dict[str, Tensor]]:
    """The transformers config, and the weights by transformers' names without their tied copies."""
    family = family_of(model.blueprint.family)
    blueprint = plain(family, model.blueprint)
    config = export_config(family, blueprint)
    kind = blueprint.head.kind if blueprint.head and not is_bare(blueprint.head) else "embedding"
    config.architectures = [family.classes + ENDINGS[kind]]
    config.dtype = "float32"
    for field in ("id2label", "label2id", "problem_type"):
        if kind in ("sequence", "token"):
            setattr(config, field, getattr(model.config, field))
    ours = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if blueprint.relative is not None:
        heads = list(model.blueprint.layers[0].attention.heads)
        ours["encoder.relative.weight"] = ours["encoder.relative.weight"][:, heads]
    prefix = "" if kind == "embedding" else family.base + "."
    state = {
        (prefix if theirs.split(".")[0] in BASE else "") + theirs: ours[name].to("cpu", torch.float32).clone()
        for theirs, name in family.weights(model.blueprint, config, ours).items()
    }
    return config, _completed(family, config, prefix, state)


def _class(config: Any) -> Any:
    import transformers

    return getattr(transformers, config.architectures[0])


def _completed(family: Family, config: Any, prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Check names and shapes against transformers' own model, and add the weights that it has but does not use."""
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in _class(config)(config).state_dict().items()}
    missing = wanted.keys() - state.keys() - family.copies.keys()
    zeros = {name: torch.zeros(wanted[name]) for name in missing if name.removeprefix(prefix).startswith(_UNUSED)}
    complete = state | zeros
    wrong = [name for name, tensor in complete.items() if wanted.get(name) != tensor.shape]
    if wrong or missing - zeros.keys():
        first = min(wrong or missing - zeros.keys())
        raise BertpressError(f"export to {config.architectures[0]}: {first} does not fit")
    return complete


def plain(family: Family, blueprint: Blueprint) -> Blueprint:
    """The blueprint without what an export may drop: numbers of heads, sharing that copies undo, quantizers.

    Raises:
        ModelError: layers differ, or channels have factors; names the first that does.
    """
    if blueprint.smoothed:
        raise ModelError(f"smoothed=true: a plain {family.model_type} config has no factors for channels{_OTHERS}")
    if not blueprint.layers:
        raise ModelError(f"layers=[]: a plain {family.model_type} config needs at least one{_OTHERS}")
    if blueprint.shortening is not None:
        raise ModelError(f"shortening: a plain {family.model_type} config has no convolutions{_OTHERS}")
    first = blueprint.layers[0]
    for i, layer in enumerate(blueprint.layers):
        if (odd := _odd_part(layer)) is not None:
            raise ModelError(f"layers.{i}.{odd} has no place in a plain {family.model_type} config{_OTHERS}")
        for field, mine, other in _fields(layer, first, numbered=blueprint.relative is not None):
            if mine != other:
                why = f"differs from layer 0's {other!r}; a plain {family.model_type} config has one for all"
                raise ModelError(f"layers.{i}.{field}={mine!r} {why}{_OTHERS}")
    attention = first.attention.model_copy(update={"heads": tuple(range(len(first.attention.heads)))})
    if attention.scale is not None and math.isclose(attention.scale, attention.head_size**-0.5):
        attention = attention.model_copy(update={"scale": None})
    relative = blueprint.relative and blueprint.relative.model_copy(update={"heads": len(attention.heads)})
    changes: dict[str, Any] = {"attention": attention, "origin": None}
    if not family.shares(blueprint):
        changes |= dict.fromkeys(_SHARING)
    layers = tuple(layer.model_copy(update=changes) for layer in blueprint.layers)
    return blueprint.with_float_activations().replace(layers=layers, relative=relative)


def _odd_part(layer: LayerSpec) -> str | None:
    """What transformers has no counterpart of."""
    parts = {"mixer": layer.mixer, "attention.pattern": layer.attention.pattern, "leave": layer.leave}
    return next((f"{name}={part.kind}" for name, part in parts.items() if part is not None), None)


_SHARING = ("attention_from", "ffn_from")


def _fields(layer: LayerSpec, first: LayerSpec, *, numbered: bool) -> Iterator[tuple[str, Any, Any]]:
    """What all layers must agree on: (name, value here, value in the first layer).

    Heads by their number, which matters (``numbered``) where a relative bias is looked up by it; else by their count.
    """
    for name in type(layer.attention).model_fields:
        mine, other = getattr(layer.attention, name), getattr(first.attention, name)
        if name != "heads" or numbered or len(mine) != len(other):
            yield f"attention.{name}", mine, other
    for name in type(layer).model_fields:
        if name not in ("attention", "origin", *_SHARING):
            yield name, getattr(layer, name), getattr(first, name)


def export_config(family: Family, blueprint: Blueprint) -> Any:
    """The transformers config that says exactly what ``blueprint`` says.

    Raises:
        ModelError: there is none; names the first part that has no place.
    """
    config = transformers_config(family, family.config(blueprint))
    attention, width = blueprint.layers[0].attention, _inner_width(blueprint)
    if attention.query_width != width or attention.value_width != width:
        shown = f"{len(attention.heads)} heads of {attention.head_size} (values {attention.value_size})"
        raise ModelError(f"layers.0.attention: {shown} do not span {width}, as {family.model_type} must{_OTHERS}")
    again = family.blueprint(config).replace(head=_conventional(family, config, blueprint))
    for path, asked, said in _differences(blueprint, again):
        raise ModelError(f"{path}={asked!r} has no place in a plain {family.model_type} config ({said!r}){_OTHERS}")
    return config


def _inner_width(blueprint: Blueprint) -> int:
    neck = blueprint.layers[0].bottleneck
    return neck.size if neck else blueprint.hidden_size


def _conventional(family: Family, config: Any, blueprint: Blueprint) -> HeadSpec | None:
    """The head that the family would have in place of the blueprint's."""
    head = blueprint.head
    if head is None or head.kind == "embedding":
        return head
    if is_bare(head) and not family.pooler:
        return None
    usual = family.head(head.kind, head.labels, blueprint.layers[0].activation, dense=family.has_dense(config))
    fields = {name: getattr(usual, name) for name in RELEVANT[head.kind]}
    return head.model_copy(update=fields)


def _differences(asked: Any, said: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every leaf in which two specs differ, as (path, first, second)."""
    if isinstance(asked, Spec) and isinstance(said, Spec):
        for name in type(asked).model_fields:
            yield from _differences(getattr(asked, name), getattr(said, name), f"{path}.{name}" if path else name)
    elif isinstance(asked, tuple) and isinstance(said, tuple) and len(asked) == len(said):
        for i, (one, other) in enumerate(zip(asked, said, strict=True)):
            yield from _differences(one, other, f"{path}.{i}")
    elif asked != said:
        yield path, asked, said
