"""Tokenizers that lie in a folder: read as data, whoever wrote it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bertpress.encoder.sources import read_json
from bertpress.errors import ModelError

CONFIG = "tokenizer_config.json"
_ELSEWHERE = "fast_tokenizer_files"  # names of files, which transformers opens wherever they lead


def read_tokenizer(folder: str | Path) -> Any:
    """The transformers tokenizer of a folder, which reads nothing outside of it and runs none of its code.

    Unless it is told not to, transformers asks on standard input whether the folder's code may run; there the texts to
    predict may lie, and the first of them would be the answer.

    Raises:
        ModelError: there is none, it is damaged, it leads outside the folder, or it would need code of its own.
    """
    from transformers import AutoTokenizer

    place = Path(folder)
    _check(place)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
        longest(tokenizer.model_max_length)
        return tokenizer
    except Exception as error:  # the libraries below raise whatever a damaged file leads them to
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, OSError | ValueError) else str(error)
        raise ModelError(f"{place}: no tokenizer ({' '.join(reason.split())[:200]})") from None


def longest(length: Any) -> int:
    """The tokens that a tokenizer's ``model_max_length`` permits; transformers writes 1e30 where it permits any.

    Raises:
        ModelError: it is no number of at least 1.
    """
    if not (isinstance(length, int | float) and length >= 1):  # NaN is not
        raise ModelError(f"model_max_length={length!r} must be a number of at least 1")
    return int(min(length, 2**30))


@contextmanager
def encoding_texts() -> Iterator[None]:
    """A block that encodes texts.

    Raises:
        ModelError: the tokenizer is damaged, so that the library gave up in a way that is no ``Exception``.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust, which has no class to import
            raise
        raise ModelError(f"the tokenizer is damaged and cannot encode ({error})") from None


def check_ids(tokenizer: Any, vocabulary: int, place: str | Path) -> None:
    """Refuse a tokenizer with ids that the model's table does not have: they would be read from beyond its end.

    Raises:
        ModelError: naming the largest.
    """
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= vocabulary:
        raise ModelError(f"{place}: its tokenizer has the id {largest}, must be below the model's {vocabulary}")


def same_ids(first: Any, second: Any) -> bool:
    """Whether two tokenizers give the same numbers to the same pieces."""
    return bool(first.get_vocab() == second.get_vocab())


def cuts_alike(first: Any, second: Any, *, pairs: bool) -> bool:
    """Whether two tokenizers cut every text at the same places, whatever numbers they give to the pieces.

    MPNet has BERT's pieces under other numbers and its own names of the special tokens: token i of a text is the same
    piece for both, so that what models say of it can be compared.

    Args:
        first: a tokenizer of transformers.
        second: another.
        pairs: whether two texts are read together; MPNet puts one token more between them than BERT.
    """
    if same_ids(first, second):
        return True
    if not (first.is_fast and second.is_fast):
        return False
    (rules, pieces, special), (others, those, names) = (_reading(each) for each in (first, second))
    added = [each.num_special_tokens_to_add(pair=pairs) for each in (first, second)]
    return pieces - special - names == those - special - names and rules == others and added[0] == added[1]


def _reading(tokenizer: Any) -> tuple[list[Any], set[str], set[str]]:
    """How a text is cleaned and cut, what into, and the special tokens."""
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    model = {key: value for key, value in whole["model"].items() if key not in ("vocab", "unk_token")}
    special = {each["content"] for each in whole["added_tokens"] if each["special"]}
    special |= set(tokenizer.all_special_tokens)
    return [whole["normalizer"], whole["pre_tokenizer"], model], set(tokenizer.get_vocab()), special


def _check(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        return
    for name in read_json(folder / CONFIG, dict).get(_ELSEWHERE) or ():
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelError(f"{folder / CONFIG}: {_ELSEWHERE}: {name!r} must be the name of a file beside it")
