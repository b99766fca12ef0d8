"""How much of a text the most frequent word pieces make up, and how much a smaller vocabulary cuts as a larger does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bertpress.tasks import Rows

SIZES = (1_000, 2_000, 5_000, 10_000)
ROWS = 10_000
MATCHING = 94.0
"""Percent of the tokens that a vocabulary of 5,000 word pieces cuts as one of 30,000 does (Zhao et al. 2019)."""


def coverage(texts: Rows, tokenizer: Any) -> dict[str, Any]:
    """Share of the tokens that the most frequent pieces of a vocabulary account for.

    Args:
        texts: with a column ``text``; the first so many rows are read.
        tokenizer: whose pieces are counted, special ones left out.

    Returns:
        ``tokens``, ``pieces`` that occur, and ``coverage``: a share for each size that the vocabulary exceeds.
    """
    column = [str(text) for text in texts.limit(ROWS).column("text")]
    counts = Counter(piece for ids in tokenizer(column, add_special_tokens=False)["input_ids"] for piece in ids)
    ranked = [count for _, count in counts.most_common()]
    total = sum(ranked)
    shares = {str(size): sum(ranked[:size]) / total for size in SIZES if size < len(tokenizer)} if total else {}
    return {"tokens": total, "pieces": len(ranked), "coverage": shares}


def matching_tokens(texts: Sequence[str], large: Any, small: Any) -> float:
    """How many of the tokens that one tokenizer cuts texts into another cuts likewise, in percent.

    The claim is that 5,000 word pieces cut at least :data:`MATCHING` percent as 30,000 do; it depends on the texts.

    Args:
        texts: a corpus.
        large: a fast tokenizer of transformers; its tokens are counted, special ones left out.
        small: another; a token of the large one is matched where this one has it at the same place.

    Raises:
        ValueError: the texts have no tokens.
    """
    every = matched = 0
    for text in texts:
        ours, theirs = (_pieces(text, tokenizer) for tokenizer in (large, small))
        every += len(ours)
        matched += len(ours & theirs)
    if not every:
        raise ValueError("the texts have no tokens")
    return 100 * matched / every


def _pieces(text: str, tokenizer: Any) -> set[tuple[str, tuple[int, int]]]:
    """Each token with its characters in the text."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens = tokenizer.convert_ids_to_tokens(found["input_ids"])
    return {(token, tuple(place)) for token, place in zip(tokens, found["offset_mapping"], strict=True)}
