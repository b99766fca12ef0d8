"""Text in, label out: what surrounds the model in every timing, the same code for every engine.

Only the `tokenizers` library is used where the folder has a ``tokenizer.json``, so that a process that
measures an engine without PyTorch need not hold PyTorch in memory.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bertpress.encoder.tokenizers import encoding_texts, longest, read_tokenizer
from bertpress.errors import ModelError

Text: TypeAlias = "str | tuple[str, str] | list[str]"
"""A text, a pair of texts, or a list of words to be tagged."""
Batch: TypeAlias = "dict[str, NDArray[np.int64]]"


def to_wire(text: Text) -> dict[str, Any]:
    """JSON that :func:`from_wire` turns back: pairs and lists of words stay apart."""
    if isinstance(text, tuple):
        return {"text": text[0], "pair": text[1]}
    return {"words": text} if isinstance(text, list) else {"text": text}


def from_wire(wire: dict[str, Any]) -> Text:
    """The inverse of :func:`to_wire`."""
    if "words" in wire:
        return list(wire["words"])
    return (wire["text"], wire["pair"]) if "pair" in wire else wire["text"]


class Reader:
    """The tokenizer of a model folder, from texts to padded batches of int64 arrays."""

    def __init__(self, folder: Path, max_length: int = 128) -> None:
        """Load ``tokenizer.json``.

        Raises:
            ModelError: the folder has no usable tokenizer.
        """
        settings = read_json(folder / "tokenizer_config.json")
        config = read_json(folder / "config.json")
        self.inputs = {"input_ids", "attention_mask"}
        self.segments = _segments(config, settings)
        self.pad_id = config.get("pad_token_id") or 0
        self.kind = answer_kind(config)
        self._tokenizer = _fast_tokenizer(folder)
        self._tokenizer.no_padding()
        own = settings.get("model_max_length")
        self.max_length = min(max_length, max_length if own is None else longest(own), _positions(config, max_length))

    def features(self, text: Text) -> list[dict[str, list[int]]]:
        """What the model reads of a text: one sequence, but each text of a pair alone where the model embeds."""
        if self.kind == "embedding" and isinstance(text, tuple):
            return [self.encode(text[0]), self.encode(text[1])]
        return [self.encode(text)]

    def encode(self, text: Text) -> dict[str, list[int]]:
        """Ids of one sequence, special tokens included, cut to the longest length allowed."""
        pair = text[1] if isinstance(text, tuple) else None
        first = text[0] if isinstance(text, tuple) else " ".join(text) if isinstance(text, list) else text
        strategy = "only_second" if self.kind == "span" and pair is not None else "longest_first"
        self._tokenizer.enable_truncation(self.max_length, strategy=strategy)
        with encoding_texts():
            found = self._tokenizer.encode(first, pair)
        encoded = {"input_ids": found.ids, "attention_mask": found.attention_mask}
        if self.segments:
            encoded["token_type_ids"] = found.type_ids
        return encoded

    def collate(self, encoded: Sequence[dict[str, list[int]]]) -> Batch:
        """Pad to the longest: (batch, tokens) each."""
        longest = max(len(one["input_ids"]) for one in encoded)
        batch: Batch = {}
        for name in encoded[0]:
            filler = self.pad_id if name == "input_ids" else 0
            batch[name] = np.full((len(encoded), longest), filler, dtype=np.int64)
            for row, one in enumerate(encoded):
                batch[name][row, : len(one[name])] = one[name]
        return batch


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty where there is none."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: is not JSON ({error})") from None
    return found if isinstance(found, dict) else {}


def _fast_tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"{path}: is no tokenizer ({str(error).splitlines()[0]})") from None
    tokenizer = read_tokenizer(folder)
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"{folder}: its tokenizer has no fast form (tokenizer.json), which timing needs")
    return tokenizer.backend_tokenizer


def _segments(config: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether the model tells two texts apart by segment ids."""
    names = settings.get("model_input_names")
    if names:
        return "token_type_ids" in names
    if "blueprint" in config:
        return bool((config["blueprint"].get("embeddings") or {}).get("segments", 2))
    return int(config.get("type_vocab_size") or 0) > 1


def _positions(config: dict[str, Any], default: int) -> int:
    embeddings = (config.get("blueprint") or {}).get("embeddings")
    if embeddings:
        positions = embeddings.get("positions", 512)
        return int(positions - embeddings.get("first_position", 0)) if positions else default
    return int(config.get("max_position_embeddings") or default)


KINDS = {
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "token",
    "ForQuestionAnswering": "span",
    "ForMaskedLM": "masked_lm",
    "ForSentenceEmbedding": "embedding",
}


def answer_kind(config: dict[str, Any]) -> str | None:
    """Kind of the head that a ``config.json`` tells of, as in ``HeadSpec.kind``; None for a bare encoder."""
    head = (config.get("blueprint") or {}).get("head")
    if head:
        return str(head["kind"])
    architecture = next(iter(config.get("architectures") or ()), "")
    return next((kind for suffix, kind in KINDS.items() if architecture.endswith(suffix)), None)


class Answers:
    """From logits to what a caller wants: a label, a number, tags, a span of tokens, a vector."""

    def __init__(self, folder: Path) -> None:
        config = read_json(folder / "config.json")
        self.kind = answer_kind(config)
        self.multi_label = config.get("problem_type") == "multi_label_classification"
        self.labels = {int(key): name for key, name in (config.get("id2label") or {}).items()}

    def of(self, logits: NDArray[np.float32], mask: NDArray[np.int64]) -> list[Any]:
        """One answer a row.

        Args:
            logits: what the engine gave for the batch.
            mask: (batch, tokens), 1 for tokens.
        """
        if self.kind == "sequence":
            return self._classes(logits)
        if self.kind in ("token", "masked_lm"):
            best = logits.argmax(-1)
            rows = zip(best, mask, strict=True)
            return [[self._name(int(label)) for label in row[kept > 0]] for row, kept in rows]
        if self.kind == "span":
            starts, ends = logits[..., 0].argmax(-1), logits[..., 1].argmax(-1)
            return [[int(start), int(end)] for start, end in zip(starts, ends, strict=True)]
        return [row.tolist() for row in logits]

    def _classes(self, logits: NDArray[np.float32]) -> list[Any]:
        if logits.shape[-1] == 1:
            return [float(value) for value in logits[:, 0]]
        if self.multi_label:
            return [[self._name(int(label)) for label in np.flatnonzero(row > 0)] for row in logits]
        return [self._name(int(label)) for label in logits.argmax(-1)]

    def _name(self, label: int) -> str | int:
        return label if self.kind == "masked_lm" else self.labels.get(label, label)
