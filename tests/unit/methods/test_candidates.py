"""Candidates against the whole model at the masked word, and against cosines by hand."""

import torch
from sample_run import GOOD, make_data, make_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bertpress.methods.candidates import Candidates, whole_words
from bertpress.methods.wording import Wording

TASK, _, _, TOKENIZER = make_data("masked-lm", count=4)
WORDS = ("fine", "poor", "great", "dull", "lovely", "awful", "warm", "cold", "b")
TEXT = Wording.of("fine w3 the dull b .")


def model():
    return make_model(TASK, TOKENIZER, seed=2)


def test_only_words_are_whole_words():
    found = whole_words(TOKENIZER)
    assert set(GOOD) < set(found.values())
    assert all(TOKENIZER.convert_ids_to_tokens(i) == word for i, word in found.items())
    assert not {"[MASK]", "?", "w3"} & set(found.values())


def test_guesses_are_the_best_of_the_whole_model():
    masked_lm = model()
    find = Candidates(TOKENIZER, masked_lm.get_input_embeddings().weight, masked_lm, count=3)
    found = find(TEXT)
    assert [len(words) for words in found] == [3, 0, 0, 3, 3]  # w3 is no word, and the is a stopword
    whole = whole_words(TOKENIZER)
    for place, word in ((0, "fine"), (3, "dull"), (4, "b")):
        ids = TOKENIZER(TEXT.text([*TEXT.words[:place], "[MASK]", *TEXT.words[place + 1 :]]), return_tensors="pt")
        logits = masked_lm(ids["input_ids"]).logits[0, ids["input_ids"][0].tolist().index(TOKENIZER.mask_token_id)]
        order = [whole[i] for i in logits.argsort(descending=True).tolist() if whole.get(i, word) != word]
        assert found[place] == order[:3]


def test_without_a_masked_lm_the_nearest_vectors_are_taken():
    table = torch.randn(len(TOKENIZER), 6, generator=torch.Generator().manual_seed(0))
    found = Candidates(TOKENIZER, table, None, count=2)(TEXT)
    ids = {word: i for i, word in whole_words(TOKENIZER).items()}
    cosines = {word: torch.cosine_similarity(table[ids["fine"]], table[i], dim=0) for word, i in ids.items()}
    assert found[0] == sorted(set(ids) - {"fine"}, key=lambda word: -cosines[word])[:2]
    assert found[1] == found[2] == []


def test_words_of_several_pieces_have_the_mean_of_their_vectors():
    vocabulary = {word: i for i, word in enumerate(("[UNK]", "play", "##ing", "near", "far"))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    table = torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.5], [0.0, -1.0]])
    find = Candidates(tokenizer, table, None, count=3)
    assert find(Wording.of("playing")) == [["near", "play", "far"]]
    assert find(Wording.of("play")) == [["near", "far"]]


def test_words_that_are_cut_off_have_no_candidates():
    masked_lm = model()
    text = Wording.of(" ".join([*WORDS, *WORDS]))
    found = Candidates(TOKENIZER, masked_lm.get_input_embeddings().weight, masked_lm, count=1, max_length=8)(text)
    assert [len(words) for words in found] == [1] * 6 + [0] * 12  # two of the eight tokens are special
