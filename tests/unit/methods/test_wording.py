"""Shares on ten thousand draws within three standard errors, parts of speech, and texts that come back as they were."""

import numpy as np
import pytest

from bertpress.methods.wording import (
    STOPWORDS,
    Unigrams,
    Wording,
    by_candidates,
    by_rules,
    lexicon,
    some_words,
)

TAGS = {"cat": "noun", "dog": "noun", "film": "noun", "runs": "verb", "sat": "verb"}
TEXTS = [["cat", "runs"], ["dog", "sat"], ["cat", "sat"], ["film", "runs"], ["cat", "runs"]]
DRAWS = 10_000


def within(count, share, draws=DRAWS):
    return abs(count - share * draws) <= 3 * (draws * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("text", ["The cat, 'sat' - on it's  mat!", "", "...", "one", " un été, déjà  vu\n"])
def test_a_text_that_is_not_changed_comes_back(text):
    wording = Wording.of(text)
    assert wording.text() == text
    words = by_rules(wording.words, Unigrams([wording.words]), np.random.default_rng(0), mask=0, replace=0, token="[M]")
    assert wording.text(words, some_words(len(words), np.random.default_rng(0), share=0)) == text


def test_words_and_parts():
    wording = Wording.of("The cat, it's on-line (yes).")
    assert wording.words == ("The", "cat", "it's", "on-line", "yes")
    assert wording.text(["A", "dog", "is", "off", "no"]) == "A dog, is off (no)."
    assert wording.text(part=slice(1, 4)) == "cat, it's on-line"
    tokens = Wording.of(["a", "cat", "."])
    assert tokens.text() == ["a", "cat", "."]
    assert tokens.text(part=slice(1, 2)) == ["cat"]


def test_shares_of_the_rules():
    words = ["cat"] * DRAWS
    unigrams = Unigrams([["dog", "film"]])
    found = by_rules(words, unigrams, np.random.default_rng(1), mask=0.1, replace=0.2, token="[MASK]")
    assert within(found.count("[MASK]"), 0.1)
    assert within(found.count("dog") + found.count("film"), 0.2)
    assert within(found.count("cat"), 0.7)


def test_words_are_drawn_as_often_as_they_occur_and_keep_their_part_of_speech():
    unigrams, tagger = Unigrams(TEXTS, lexicon(TAGS)), lexicon(TAGS)
    words = ["film", "sat"] * (DRAWS // 2)
    found = by_rules(words, unigrams, np.random.default_rng(2), mask=0, replace=1, token="[MASK]")
    assert tagger(found) == tagger(words)
    nouns, verbs = found[::2], found[1::2]
    for word, share in (("cat", 3 / 5), ("dog", 1 / 5), ("film", 1 / 5)):
        assert within(nouns.count(word), share, DRAWS // 2), word
    for word, share in (("runs", 3 / 5), ("sat", 2 / 5)):
        assert within(verbs.count(word), share, DRAWS // 2), word


def test_without_tags_any_word_is_drawn_and_an_unknown_one_only_stands_for_itself():
    found = by_rules(["sat"] * 100, Unigrams(TEXTS), np.random.default_rng(3), mask=0, replace=1, token="")
    assert set(found) == {"cat", "dog", "film", "runs", "sat"}
    strange = Unigrams([*TEXTS, ["zebra"], ["quokka"]], lexicon(TAGS))
    assert by_rules(["zebra"] * 9, strange, np.random.default_rng(3), mask=0, replace=1, token="") == ["zebra"] * 9
    assert lexicon(TAGS)(["Cat"]) == ["noun"]


def test_n_grams():
    random, sizes, starts = np.random.default_rng(4), [], []
    for _ in range(DRAWS):
        part = some_words(8, random, share=0.25)
        if part != slice(None):
            sizes.append(part.stop - part.start)
            starts.append(part.start)
            assert 0 <= part.start < part.stop <= 8
    assert within(len(sizes), 0.25)
    for size in range(1, 6):
        assert within(sizes.count(size), 1 / 5, len(sizes)), size
    assert max(sizes) == 5
    ones = [start for start, size in zip(starts, sizes, strict=True) if size == 1]
    assert all(within(ones.count(place), 1 / 8, len(ones)) for place in range(8))
    assert some_words(3, np.random.default_rng(0), share=1.0).stop <= 3
    assert some_words(0, np.random.default_rng(0), share=1.0) == slice(None)


def test_candidates_are_equally_likely():
    words, candidates = ["cat", "the"] * DRAWS, [["dog", "film"], []] * DRAWS
    found = by_candidates(words, candidates, np.random.default_rng(5), share=0.4)
    assert found[1::2] == ["the"] * DRAWS
    assert within(found.count("dog"), 0.2)
    assert within(found.count("film"), 0.2)
    assert by_candidates(words, candidates, np.random.default_rng(5), share=0) == words


def test_stopwords_are_lower_case_words():
    assert {"the", "of", "not"} < STOPWORDS
    assert all(word == word.lower() and word.isalpha() for word in STOPWORDS)
