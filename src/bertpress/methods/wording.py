"""Texts as words that can be replaced one by one; what is between them stays as it is.

Source of the rules: Tang et al. 2019, arXiv:1903.12136, section 3.3.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Tagger = Callable[[Sequence[str]], Sequence[str]]
"""From the words of a text to a part of speech for each."""

_WORD = re.compile(r"(\w+(?:['’-]\w+)*)")
LONGEST = 5  # words of the longest n-gram

_GRAMMAR = """a about above after again against all also am an and any are as at be because been before being below
between both but by can could did do does doing down during each few for from further had has have having he her
here hers him his how i if in into is it its itself just me more most my no nor not now of off on once only or other
our ours out over own same she should so some such than that the their theirs them then there these they this those
through to too under until up us very was we were what when where which while who whom why will with would you your
yours"""
STOPWORDS = frozenset(_GRAMMAR.split())
"""English words that carry grammar rather than meaning: replacing them breaks sentences."""


@dataclass(frozen=True)
class Wording:
    """A text: its words and, around them, what stands between; tokens that were a list stay one."""

    words: tuple[str, ...]
    gaps: tuple[str, ...] | None

    @classmethod
    def of(cls, value: Any) -> Wording:
        """The words of a text, or of a list of words."""
        if not isinstance(value, str):
            return cls(tuple(map(str, value or ())), None)
        parts = _WORD.split(value)
        return cls(tuple(parts[1::2]), tuple(parts[::2]))

    def text(self, words: Sequence[str] | None = None, part: slice = slice(None)) -> Any:
        """The text, or the list, with other words; of ``part`` only the words there and what is between them."""
        chosen = list(self.words if words is None else words)[part]
        if self.gaps is None:
            return chosen
        first, last, _ = part.indices(len(self.words))
        gaps = list(self.gaps[first : last + 1])
        if part != slice(None):
            gaps[0] = gaps[-1] = ""
        return gaps[0] + "".join(word + gap for word, gap in zip(chosen, gaps[1:], strict=True))


class Unigrams:
    """How often words occur, by their tags: draws words of one tag.

    Args:
        texts: the words of each text.
        tagger: gives tags; None: all words are of one kind.
    """

    def __init__(self, texts: Iterable[Sequence[str]], tagger: Tagger | None = None) -> None:
        self.tagger: Tagger = tagger or (lambda words: [""] * len(words))
        counts: dict[str, Counter[str]] = {}
        for words in texts:
            for word, tag in zip(words, self.tagger(words), strict=True):
                counts.setdefault(tag, Counter())[word] += 1
        self.words = {tag: list(found) for tag, found in counts.items()}
        self.sums = {tag: np.cumsum(list(found.values())) for tag, found in counts.items()}

    def draw(self, tag: str, random: np.random.Generator) -> str:
        """A word of this tag, as often as it occurs."""
        sums = self.sums[tag]
        return self.words[tag][int(np.searchsorted(sums, random.random() * sums[-1], side="right"))]


def by_rules(
    words: Sequence[str], unigrams: Unigrams, random: np.random.Generator, *, mask: float, replace: float, token: str
) -> list[str]:
    """Each word masked with probability ``mask``, or else replaced by one of its tag with probability ``replace``.

    Args:
        words: of a text that ``unigrams`` has seen.
        unigrams: where words are drawn from.
        random: one number a word decides.
        mask: probability.
        replace: probability; ``mask + replace`` is at most 1.
        token: what stands for a masked word.
    """
    fates, tags = random.random(len(words)), unigrams.tagger(words)
    return [
        token if fate < mask else unigrams.draw(tag, random) if fate < mask + replace else word
        for word, fate, tag in zip(words, fates, tags, strict=True)
    ]


def some_words(count: int, random: np.random.Generator, *, share: float) -> slice:
    """All of ``count`` words or, with probability ``share``, 1 to 5 neighbouring ones at a random place."""
    if random.random() >= share or not count:
        return slice(None)
    size = min(int(random.integers(1, LONGEST + 1)), count)
    first = int(random.integers(0, count - size + 1))
    return slice(first, first + size)


def by_candidates(
    words: Sequence[str], candidates: Sequence[Sequence[str]], random: np.random.Generator, *, share: float
) -> list[str]:
    """Each word that has candidates replaced by one of them with probability ``share``."""
    fates = random.random(len(words))
    return [
        found[int(random.integers(len(found)))] if found and fate < share else word
        for word, found, fate in zip(words, candidates, fates, strict=True)
    ]


def lexicon(entries: dict[str, str]) -> Tagger:
    """A tagger that looks words up, in lower case if need be; a word that it does not know is of a kind of its own."""
    return lambda words: [entries.get(word) or entries.get(word.lower()) or f"= {word}" for word in words]
