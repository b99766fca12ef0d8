"""Words that could stand in place of another: what a masked language model guesses, or the nearest vectors of a table.

Source: Jiao et al. 2020 (TinyBERT), arXiv:1909.10351, algorithm 1.  Departs from it: nearest vectors are those of the
teacher's own token table instead of GloVe's; a word of several pieces has their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bertpress.methods.base import Model
from bertpress.methods.wording import STOPWORDS, Wording
from bertpress.tasks.masking import IGNORED
from bertpress.training.guessing import split

BATCH = 64  # masked copies of texts that are guessed together


def whole_words(tokenizer: Any) -> dict[int, str]:
    """Entries of a tokenizer's vocabulary that are a word by themselves, by id."""
    words = {i: token.lstrip("Ġ▁") for token, i in tokenizer.get_vocab().items()}
    words = {i: word for i, word in sorted(words.items()) if word.isalpha()}
    encoded = tokenizer([f" {word}" for word in words.values()], add_special_tokens=False)["input_ids"]
    return {i: word for (i, word), ids in zip(words.items(), encoded, strict=True) if ids == [i]}


class Candidates:
    """The ``count`` best candidates for each word of a text; none for stopwords and for what is no word.

    Args:
        tokenizer: of both models.
        table: (vocabulary, size) token vectors.
        masked_lm: guesses words of one piece; None: the nearest vectors are taken for them too.
        count: of candidates.
        max_length: tokens that are read of a text.
    """

    def __init__(
        self, tokenizer: Any, table: Tensor, masked_lm: Model | None, *, count: int, max_length: int = 128
    ) -> None:
        self.tokenizer, self.count, self.max_length = tokenizer, count, max_length
        self.words = whole_words(tokenizer)
        self.ids = torch.tensor(list(self.words))
        self.table = F.normalize(table.detach().float(), dim=-1)
        self.masked_lm = masked_lm
        self.known: dict[str, list[str]] = {}

    def __call__(self, wording: Wording) -> list[list[str]]:
        """A list of words for each word of the text."""
        found: list[list[str]] = [[] for _ in wording.words]
        guessed = []
        for i, word in enumerate(wording.words):
            if not word.isalpha() or word.lower() in STOPWORDS:
                continue
            pieces = self.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
            if self.masked_lm is not None and len(pieces) == 1:
                guessed.append(i)
            else:
                found[i] = self.nearest(word, pieces)
        for at in range(0, len(guessed), BATCH):
            part = guessed[at : at + BATCH]
            for i, words in zip(part, self.guesses(wording, part), strict=True):
                found[i] = words
        return found

    def nearest(self, word: str, pieces: Sequence[int]) -> list[str]:
        """Whole words by the cosine of their vector with the mean of the pieces'."""
        if word not in self.known:
            cosines = self.table[self.ids] @ self.table[list(pieces)].mean(0)
            self.known[word] = self._best(cosines[None], [word])[0]
        return self.known[word]

    def guesses(self, wording: Wording, places: Sequence[int]) -> list[list[str]]:
        """Whole words by their score at each of these places, masked one at a time."""
        assert self.masked_lm is not None
        token = self.tokenizer.mask_token
        texts = []
        for place in places:
            words = [token if i == place else word for i, word in enumerate(wording.words)]
            text = wording.text(words)
            texts.append(text if isinstance(text, str) else " ".join(text))
        options = {"padding": True, "truncation": True, "return_attention_mask": True, "return_tensors": "pt"}
        batch = self.tokenizer(texts, max_length=self.max_length, **options)
        masked = batch["input_ids"] == self.tokenizer.mask_token_id
        there = masked.any(1)  # a text may be too long for all of its words
        first = F.one_hot(masked.int().argmax(1), masked.shape[1]).bool() & there[:, None]
        alone, answer = split(self.masked_lm)
        with torch.no_grad():
            output = alone(batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids"))
            scores = answer(output, {"labels": torch.where(first, 0, IGNORED)})[:, self.ids]
        kept = [place for place, seen in zip(places, there.tolist(), strict=True) if seen]
        best = dict(zip(kept, self._best(scores, [wording.words[i] for i in kept]), strict=True))
        return [best.get(place, []) for place in places]

    def _best(self, scores: Tensor, words: Sequence[str]) -> list[list[str]]:
        """For (rows, whole words) scores the best words but the word itself."""
        order = scores.topk(min(self.count + 1, scores.shape[1])).indices
        names = [[self.words[int(i)] for i in self.ids[row]] for row in order]
        return [
            [name for name in row if name.lower() != word.lower()][: self.count]
            for row, word in zip(names, words, strict=True)
        ]
