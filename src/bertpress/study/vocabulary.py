"""How much of a text the most frequent word pieces make up."""

from __future__ import annotations

from collections import Counter
from typing import Any

from bertpress.tasks import Rows

SIZES = (1_000, 2_000, 5_000, 10_000)
ROWS = 10_000


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
