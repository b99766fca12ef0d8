"""More text for the teacher to answer: altered copies of the training rows, or sentences from a file.

Source: rules: Tang et al. 2019, arXiv:1903.12136, section 3.3 (masking, words of the same part of speech, n-grams);
words: TinyBERT, Jiao et al. 2020, arXiv:1909.10351, algorithm 1; file: sentences that a language model wrote, Tang et
al. 2019, "Natural language generation for effective knowledge distillation", section 3.
Departs from them: without a file of parts of speech, words are replaced by any word, as often as it occurs; a copy
that equals its row or an earlier copy is left out; of two texts the first, the second, and both are altered by turns.
The teacher alone labels what is added, so that the loss of the task does not see it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from bertpress import tasks
from bertpress.artifact.folder import write_file
from bertpress.errors import DataError, RecipeError
from bertpress.methods.base import Context, Method, Model, Need
from bertpress.methods.candidates import Candidates
from bertpress.methods.wording import Unigrams, Wording, by_candidates, by_rules, lexicon, some_words
from bertpress.tasks import Rows
from bertpress.tasks.encoding import words_of
from bertpress.tasks.files import SUFFIXES, lines
from bertpress.tasks.texts import PLAIN

KEPT = "augmented.jsonl"
Alter = Callable[[Wording, np.random.Generator], Any]


def altered_columns(columns: Sequence[str], copy: int) -> Sequence[str]:
    """Which of one or two text columns a copy alters: of two the first, the second, both, and so on."""
    return columns if len(columns) == 1 or copy % 3 == 2 else [columns[copy % 3]]


def copies_of(
    rows: Rows, columns: Sequence[str], alter: Callable[[str, int], Alter], *, count: int, seed: int
) -> list[tuple[int, dict[str, Any]]]:
    """Altered copies of rows: the row, and its texts by column; none is equal to its row or to another copy of it.

    Args:
        rows: the originals.
        columns: of their texts.
        alter: for a column and a row what makes one copy of its text.
        count: copies of each row.
        seed: with the number of the row, decides all draws.
    """
    found = []
    for i in range(len(rows)):
        random = np.random.default_rng((seed, i))
        texts = {column: rows.columns[column][i] for column in columns}
        seen = {repr(texts)}
        ways = {column: (Wording.of(text), alter(column, i)) for column, text in texts.items()}
        for copy in range(count):
            new = {column: ways[column][1](ways[column][0], random) for column in altered_columns(columns, copy)}
            made = {**texts, **new}
            if repr(made) not in seen:
                seen.add(repr(made))
                found.append((i, made))
    return found


class Augment(Method):
    """Add altered copies of the training rows, or sentences from a file, that the teacher alone labels."""

    cite: ClassVar[str] = "Tang et al., 2019; Jiao et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TEACHER, Need.TRAINING})

    strategy: Literal["rules", "words", "file"] = Field(
        "rules", description="Rules of chance, words that a model finds fitting, or sentences from a file."
    )
    copies: int = Field(20, ge=1, le=1000, description="Copies of each row.")
    examples: int | None = Field(None, ge=1, description="Rows that are copied, chosen by the seed; null: all.")
    mask: float = Field(0.1, ge=0, le=0.5, description="Rules: probability that a word is masked.")
    replace: float = Field(0.1, ge=0, le=0.5, description="Rules: probability that a word is replaced.")
    ngram: float = Field(0.25, ge=0, le=1, description="Rules: probability that 1 to 5 neighbouring words are left.")
    tags: str | None = Field(
        None, description="Rules: a file of words and their parts of speech, a tab between, which replacing preserves."
    )
    probability: float = Field(0.4, ge=0, le=1, description="Words: probability that a word is replaced.")
    candidates: int = Field(15, ge=1, le=1000, description="Words: how many a replacement is chosen from.")
    texts: str | None = Field(None, description="File: one text a line, or a table with the task's text columns.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Refuse what cannot be read or masked, before anything is trained."""
        if self.strategy == "file" and self.texts is None:
            raise RecipeError("distill/augment: strategy=file needs texts, the name of a file")
        needed = self.tags if self.strategy == "rules" else self.texts if self.strategy == "file" else None
        if needed is not None and not Path(needed).is_file():
            raise RecipeError(f"distill/augment: {needed}: no such file")
        if self.strategy == "file" and needed is not None and not self._readable(Path(needed), ctx):
            columns = ", ".join(ctx.task.text_columns)
            ends = f"{', '.join(SUFFIXES)}, with the columns {columns}"
            raise RecipeError(f"distill/augment: {needed}: for the task {ctx.task.name} its name must end in {ends}")
        masks = self.strategy == "rules" and self.mask > 0
        if masks and getattr(ctx.tokenizer, "mask_token", None) is None:
            raise RecipeError(f"distill/augment: mask={self.mask} needs a tokenizer with a mask token; set mask=0")
        return model

    def training_rows(self, rows: Rows, ctx: Context) -> Rows:
        """The rows, then what is added to them; kept in a file, so that a run that goes on reads the same."""
        columns = ["text"] if ctx.unlabelled else list(ctx.task.text_columns)
        if ctx.task.kind == "token-classification" and not ctx.unlabelled:
            rows = rows.with_columns(**{columns[0]: words_of(ctx.task, rows)})
        if self.strategy == "file":
            added = self._from_file(columns)
            extra = Rows({**{name: [None] * len(added) for name in rows.columns}, **added.columns}, rows.split)
        else:
            few = rows if self.examples is None else rows.limit(self.examples, ctx.seed)
            made = self._kept(ctx, lambda: self._copies(few, columns, ctx))
            extra = few.subset(i for i, _ in made).with_columns(**{c: [texts[c] for _, texts in made] for c in columns})
            if ctx.task.label_column in rows.columns:
                extra = extra.with_columns(**{ctx.task.label_column: [None] * len(extra)})
        ctx.say(f"distill/augment adds {len(extra)} rows to {len(rows)}")
        return rows.followed_by(extra)

    def _copies(self, rows: Rows, columns: Sequence[str], ctx: Context) -> list[tuple[int, dict[str, Any]]]:
        alter = self._by_rules(rows, columns, ctx) if self.strategy == "rules" else self._by_words(rows, ctx)
        return copies_of(rows, columns, alter, count=self.copies, seed=ctx.seed)

    def _by_rules(self, rows: Rows, columns: Sequence[str], ctx: Context) -> Callable[[str, int], Alter]:
        tagger = None if self.tags is None else lexicon(read_tags(Path(self.tags)))
        texts = (Wording.of(text).words for column in columns for text in rows.columns[column])
        unigrams = Unigrams(texts, tagger)

        def alter(wording: Wording, random: np.random.Generator) -> Any:
            shares = {"mask": self.mask, "replace": self.replace, "token": ctx.tokenizer.mask_token}
            words = by_rules(wording.words, unigrams, random, **shares)
            return wording.text(words, some_words(len(words), random, share=self.ngram))

        return lambda column, row: alter

    def _by_words(self, rows: Rows, ctx: Context) -> Callable[[str, int], Alter]:
        assert ctx.teacher is not None
        table = ctx.teacher.get_parameter("encoder.embeddings.word.weight")
        reads = ctx.teacher_tokenizer or ctx.tokenizer
        find = Candidates(reads, table, ctx.masked_lm(), count=self.candidates, max_length=ctx.task.max_length)

        def of(column: str, row: int) -> Alter:
            candidates = find(Wording.of(rows.columns[column][row]))
            return lambda wording, random: wording.text(
                by_candidates(wording.words, candidates, random, share=self.probability)
            )

        return of

    @staticmethod
    def _readable(path: Path, ctx: Context) -> bool:
        single = ctx.unlabelled or len(ctx.task.text_columns) == 1
        return path.name.endswith((*SUFFIXES, *(PLAIN if single else ())))

    def _from_file(self, columns: Sequence[str]) -> Rows:
        assert self.texts is not None
        path = Path(self.texts)
        if path.name.endswith(PLAIN):
            return Rows({columns[0]: tasks.load_texts(path).columns["text"]})
        found = tasks.read(path, "augmented")
        return Rows({column: found.column(column) for column in columns})

    @staticmethod
    def _kept(ctx: Context, make: Callable[[], list[tuple[int, dict[str, Any]]]]) -> list[tuple[int, dict[str, Any]]]:
        """What was made before in the stage's folder, else what is made now."""
        place = None if ctx.folder is None else ctx.folder / KEPT
        if place is not None and place.is_file():
            return [(i, texts) for i, texts in map(json.loads, place.read_text(encoding="utf-8").splitlines())]
        made = make()
        if place is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_file(place, "".join(json.dumps(each) + "\n" for each in made))
        return made


def read_tags(path: Path) -> dict[str, str]:
    """Parts of speech by word, from lines with a tab between.

    Raises:
        DataError: a line has another form; names it.
    """
    entries = {}
    for number, line in lines(path):
        word, tab, tag = line.strip().partition("\t")
        if line.strip():
            if not tab:
                raise DataError(f"{path} line {number}: needs a word and its part of speech with a tab between")
            entries[word] = tag
    return entries
