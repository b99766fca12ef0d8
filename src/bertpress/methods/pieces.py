"""Vocabularies: how often a tokenizer's tokens occur, the same tokenizer with fewer of them, or with others.

All of it works on the content of ``tokenizer.json`` (word pieces, byte pairs, unigrams); special tokens and others that
were added always stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from bertpress.encoder.tokenizers import read_tokenizer
from bertpress.errors import RecipeError

Json = dict[str, Any]
CHUNK = 4096  # texts at once
FILE = "tokenizer.json"


def content(tokenizer: Any) -> Json:
    """What ``tokenizer.json`` holds of a tokenizer.

    Raises:
        RecipeError: its model is none whose vocabulary can be changed.
    """
    backend: Json = json.loads(tokenizer.backend_tokenizer.to_str())
    model = backend["model"]
    odd = [key for key in ("end_of_word_suffix", "byte_fallback", "ignore_merges") if model.get(key)]
    if model["type"] not in ("WordPiece", "BPE", "Unigram") or odd or (model["type"] == "BPE" and prefix(backend)):
        what = f"{model['type']} with {odd[0]}" if odd else model["type"]
        raise RecipeError(f"a tokenizer of the kind {what} keeps its vocabulary: WordPiece, BPE and Unigram can change")
    return backend


def prefix(backend: Json) -> str:
    """What stands before pieces that continue a word."""
    return backend["model"].get("continuing_subword_prefix") or ""


def rebuilt(tokenizer: Any, backend: Json) -> Any:
    """A tokenizer of the same class and settings around another ``tokenizer.json``, as it will be loaded again."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        (Path(folder) / FILE).write_text(json.dumps(backend, ensure_ascii=False), encoding="utf-8")
        return read_tokenizer(folder)


def token_counts(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """How often each token occurs in texts, special tokens not added: (largest id + 1,), int64."""
    counts = torch.zeros(max(tokenizer.get_vocab().values()) + 1, dtype=torch.int64)
    backend = tokenizer.backend_tokenizer
    limits = backend.truncation, backend.padding
    backend.no_truncation()
    backend.no_padding()
    try:
        for low in range(0, len(texts), CHUNK):
            found = backend.encode_batch_fast(list(texts[low : low + CHUNK]), add_special_tokens=False)
            ids = torch.tensor([i for encoding in found for i in encoding.ids], dtype=torch.int64)
            counts += ids.bincount(minlength=len(counts))
    finally:
        if limits[0] is not None:
            backend.enable_truncation(**limits[0])
        if limits[1] is not None:
            backend.enable_padding(**limits[1])
    return counts


def indispensable(backend: Json) -> list[str]:
    """Tokens that always stay: added ones, that for what is unknown, and single characters, continuing a word or not.

    Characters let words that were never seen be spelt.
    """
    start, model = prefix(backend), backend["model"]
    named = {token["content"] for token in backend["added_tokens"]} | {model.get("unk_token")}
    if model["type"] == "Unigram" and model.get("unk_id") is not None:
        named.add(model["vocab"][model["unk_id"]][0])
    return [token for token in vocabulary(backend) if token in named or len(token.removeprefix(start)) == 1]


def vocabulary(backend: Json) -> dict[str, int]:
    """Ids by token, added ones included, in the order of the ids."""
    given = backend["model"]["vocab"]
    own = given if isinstance(given, dict) else {token: i for i, (token, _) in enumerate(given)}
    every = own | {token["content"]: token["id"] for token in backend["added_tokens"]}
    return dict(sorted(every.items(), key=lambda item: item[1]))


def with_parts(backend: Json, tokens: Iterable[str]) -> set[str]:
    """Tokens, and those that byte pairs are merged from on the way to them."""
    kept = set(tokens)
    if backend["model"]["type"] != "BPE":
        return kept
    ranks = {pair: rank for rank, pair in enumerate(_merges(backend))}
    for token in list(kept):
        parts = list(token)
        while pairs := [pair for pair in pairwise(parts) if pair in ranks]:
            best = min(pairs, key=ranks.__getitem__)
            at = list(pairwise(parts)).index(best)
            parts[at : at + 2] = ["".join(best)]
            kept.add(parts[at])
    return kept


def _merges(backend: Json) -> list[tuple[str, str]]:
    pairs = (each.split(" ") if isinstance(each, str) else each for each in backend["model"]["merges"])
    return [(left, right) for left, right in pairs]


def with_tokens(backend: Json, tokens: Iterable[str]) -> tuple[Json, list[int]]:
    """The tokenizer with these tokens alone, in their old order, and their old ids.

    A text whose tokens all stay is cut as before: greedy matching, merges in order and best paths choose among fewer
    candidates, of which what they chose before is one.  That holds for byte pairs whose parts stay too
    (:func:`with_parts`).
    """
    kept, old = set(tokens), vocabulary(backend)
    ids = [i for token, i in old.items() if token in kept]
    new = {token: place for place, token in enumerate(token for token in old if token in kept)}
    given = backend["model"]
    model = {**given}
    if given["type"] == "Unigram":
        model["vocab"] = [entry for entry in given["vocab"] if entry[0] in kept]
        if given.get("unk_id") is not None:
            model["unk_id"] = new[given["vocab"][given["unk_id"]][0]]
    else:
        model["vocab"] = {token: new[token] for token in given["vocab"] if token in kept}
    if given["type"] == "BPE":
        model["merges"] = [list(p) for p in _merges(backend) if {*p, "".join(p)} <= kept]
    return renumbered({**backend, "model": model}, new), ids


def renumbered(backend: Json, new: dict[str, int]) -> Json:
    """The ids that stand outside of the model, by token, in their places."""
    added = [{**token, "id": new[token["content"]]} for token in backend["added_tokens"]]
    padding = backend.get("padding")
    if padding is not None:
        padding = {**padding, "pad_id": new[padding["pad_token"]]}
    made = {**backend, "added_tokens": sorted(added, key=lambda token: token["id"]), "padding": padding}
    return {**made, "post_processor": _processor(backend.get("post_processor"), new)}


def _processor(part: Json | None, new: dict[str, int]) -> Json | None:
    if part is None:
        return None
    found = {**part}
    if "processors" in part:
        found["processors"] = [_processor(each, new) for each in part["processors"]]
    for name in {"sep", "cls"} & part.keys():
        found[name] = [part[name][0], new[part[name][0]]]
    if isinstance(special := part.get("special_tokens"), dict):
        found["special_tokens"] = {
            name: {**each, "ids": [new[token] for token in each["tokens"]]} for name, each in special.items()
        }
    return found


def trained_pieces(tokenizer: Any, texts: Sequence[str], count: int) -> Json:
    """A tokenizer with a vocabulary of ``count`` word pieces, learnt from texts, and all else as it was.

    Source: the trainer of the tokenizers library, which merges the most frequent pair.  It numbers the characters in an
    order of chance, on which ties hang; here they are handed in sorted.

    Args:
        tokenizer: of word pieces; gives special tokens, normalization and words.
        texts: to learn from.
        count: tokens in all; fewer where the texts have no more to merge.

    Raises:
        RecipeError: the tokenizer has no word pieces, or characters and special tokens are more than ``count``.
    """
    from tokenizers import Tokenizer, models, trainers

    backend = content(tokenizer)
    if backend["model"]["type"] != "WordPiece":
        raise RecipeError(f"train={count}: a tokenizer of the kind {backend['model']['type']} learns no word pieces")
    start, reads = prefix(backend), tokenizer.backend_tokenizer
    normal = texts if reads.normalizer is None else map(reads.normalizer.normalize_str, texts)
    characters = sorted({character for text in normal for character in text if not character.isspace()})
    added = [token["content"] for token in backend["added_tokens"]]
    first = [*added, *characters, *(start + character for character in characters)]
    if len(first) > count:
        wanted = f"{len(first)}, its special tokens and the characters of the texts"
        raise RecipeError(f"train={count} must be at least {wanted}")
    learner = Tokenizer(models.WordPiece({}, unk_token=backend["model"]["unk_token"]))
    if reads.normalizer is not None:
        learner.normalizer = reads.normalizer
    learner.pre_tokenizer = reads.pre_tokenizer
    trainer = trainers.WordPieceTrainer(
        vocab_size=count, special_tokens=first, continuing_subword_prefix=start, show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    new = dict(sorted(learner.get_vocab().items(), key=lambda item: item[1]))
    return renumbered({**backend, "model": {**backend["model"], "vocab": new}}, new)


def cut(token: str, ids: dict[str, int], start: str) -> list[int]:
    """Ids of the word pieces of a token of another vocabulary: ever the longest that fits; empty: it has none.

    Args:
        token: begins with ``start`` where it continues a word.
        ids: of the vocabulary that is to spell it.
        start: what stands before pieces that continue a word.
    """
    found: list[int] = []
    continues = bool(start) and token.startswith(start) and token != start
    rest = token.removeprefix(start) if continues else token
    while rest:
        sign = start if continues or found else ""
        size = next((size for size in range(len(rest), 0, -1) if sign + rest[:size] in ids), 0)
        if not size:
            return []
        found.append(ids[sign + rest[:size]])
        rest = rest[size:]
    return found


def rows_for(tokens: Iterable[str], table: Tensor, ids: dict[str, int], start: str) -> Tensor:
    """Vectors of new tokens: the mean of the vectors of the old pieces that spell each.

    Args:
        tokens: of the new vocabulary, in its order.
        table: (old vocabulary, size).
        ids: of the old vocabulary.
        start: as in :func:`cut`.

    Returns:
        (tokens, size); what the old vocabulary cannot spell gets the mean of all vectors.
    """
    mean = table.mean(0)
    spelt = ([ids[token]] if token in ids else cut(token, ids, start) for token in tokens)
    return torch.stack([table[pieces].mean(0) if pieces else mean for pieces in spelt])
