"""The same tokens with fewer in the vocabulary, for all three kinds; ids in their places; pieces and rows by hand."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from bertpress.errors import RecipeError
from bertpress.methods import pieces

TEXTS = ["lower lowest newer newest wide", "the widest river is lower than the newest"]
MORE = ["a wonderful unseen sentence", "seventeen tall trees grow by the river bank"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
NAMES = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), SPECIAL, strict=True))


def trained(kind):
    """A small tokenizer of one kind."""
    if kind == "bpe":
        backend, options = Tokenizer(models.BPE(unk_token="<unk>")), {"vocab_size": 120}
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        trainer = trainers.BpeTrainer(special_tokens=SPECIAL, show_progress=False, **options)
    elif kind == "unigram":
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    else:
        backend = Tokenizer(models.WordPiece({}, unk_token="<unk>"))
        backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=110, special_tokens=SPECIAL, show_progress=False)
    decoder = {"bpe": decoders.ByteLevel, "unigram": decoders.Metaspace, "wordpiece": decoders.WordPiece}
    backend.decoder = decoder[kind]()
    backend.train_from_iterator(TEXTS * 3 + MORE, trainer)
    if kind == "bpe":
        backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    else:
        template = {"single": "<s> $A </s>", "pair": "<s> $A </s> $B:1 </s>:1"}
        backend.post_processor = processors.TemplateProcessing(**template, special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **NAMES)


def reordered(tokenizer):
    """The same one with its special tokens at the end of the vocabulary, so that every id must move."""
    backend = pieces.content(tokenizer)
    every = pieces.vocabulary(backend)
    order = [token for token in every if token not in SPECIAL] + SPECIAL
    new = {token: i for i, token in enumerate(order)}
    model = backend["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {token: new[token] for token in model["vocab"]}
    else:
        model["vocab"].sort(key=lambda entry: new[entry[0]])
        model["unk_id"] = new["<unk>"]
    return pieces.rebuilt(tokenizer, pieces.renumbered(backend, new))


def trimmed(tokenizer, texts):
    backend = pieces.content(tokenizer)
    counts = pieces.token_counts(tokenizer, texts)
    wanted = [token for token, i in pieces.vocabulary(backend).items() if counts[i] > 0]
    made, ids = pieces.with_tokens(backend, pieces.with_parts(backend, wanted + pieces.indispensable(backend)))
    return pieces.rebuilt(tokenizer, made), ids


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("moved", [False, True])
def test_texts_of_kept_tokens_are_cut_as_before(kind, moved):
    whole = reordered(trained(kind)) if moved else trained(kind)
    small, ids = trimmed(whole, TEXTS)
    assert len(small) == len(ids) < len(whole)
    for text in [*TEXTS, "newest river", ("wide lower", "the river")]:
        pair = text if isinstance(text, tuple) else (text, None)
        before, after = whole(*pair)["input_ids"], small(*pair)["input_ids"]
        assert [ids[i] for i in after] == before
        assert small.decode(after) == whole.decode(before)
    for name, token in NAMES.items():
        assert getattr(small, name) == token
        assert ids[getattr(small, f"{name}_id")] == getattr(whole, f"{name}_id")


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_words_that_lost_their_pieces_are_spelt_not_unknown(kind):
    whole = trained(kind)
    small, _ = trimmed(whole, TEXTS)
    before, after = whole(MORE[1])["input_ids"], small(MORE[1])["input_ids"]
    assert len(after) > len(before)
    assert small.unk_token_id not in after
    assert small.decode(after, skip_special_tokens=True).strip() == MORE[1]


def test_byte_pairs_keep_what_they_are_merged_from():
    merges = [["a", "b"], ["c", "d"], ["ab", "cd"], ["b", "c"]]
    backend = {"model": {"type": "BPE", "vocab": {}, "merges": merges}, "added_tokens": []}
    assert pieces.with_parts(backend, ["abcd"]) == {"abcd", "ab", "cd"}
    assert pieces.with_parts(backend, ["bc"]) == {"bc"}


def test_padding_and_nested_processors_are_numbered_anew():
    backend = {
        "model": {"type": "WordPiece", "vocab": {"x": 0, "[PAD]": 1, "[SEP]": 2, "[CLS]": 3}, "unk_token": "x"},
        "added_tokens": [{"id": 1, "content": "[PAD]"}],
        "padding": {"pad_id": 1, "pad_token": "[PAD]"},
        "post_processor": {"type": "Sequence", "processors": [{"sep": ["[SEP]", 2], "cls": ["[CLS]", 3]}]},
    }
    made, ids = pieces.with_tokens(backend, ["[PAD]", "[SEP]", "[CLS]"])
    assert ids == [1, 2, 3]
    assert made["model"]["vocab"] == {"[PAD]": 0, "[SEP]": 1, "[CLS]": 2}
    assert made["added_tokens"][0]["id"] == made["padding"]["pad_id"] == 0
    assert made["post_processor"]["processors"] == [{"sep": ["[SEP]", 1], "cls": ["[CLS]", 2]}]


def test_learnt_pieces_are_the_same_each_time_and_cut_the_texts_whole():
    whole = trained("wordpiece")
    made = [pieces.trained_pieces(whole, TEXTS * 5, 50) for _ in range(4)]
    assert all(each == made[0] for each in made)
    assert len(made[0]["model"]["vocab"]) == 50
    small = pieces.rebuilt(whole, made[0])
    ids = small(TEXTS[0])["input_ids"]
    assert small.unk_token_id not in ids
    assert small.decode(ids, skip_special_tokens=True) == TEXTS[0]
    assert small.convert_ids_to_tokens([ids[0], ids[-1]]) == ["<s>", "</s>"]


def test_too_few_tokens_and_other_kinds_are_refused():
    with pytest.raises(RecipeError, match=r"train=20 must be at least \d+, its special tokens and the characters"):
        pieces.trained_pieces(trained("wordpiece"), TEXTS, 20)
    with pytest.raises(RecipeError, match="train=60: a tokenizer of the kind BPE learns no word pieces"):
        pieces.trained_pieces(trained("bpe"), TEXTS, 60)
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")))
    with pytest.raises(RecipeError, match="a tokenizer of the kind WordLevel keeps its vocabulary"):
        pieces.content(words)


def test_pieces_and_rows_by_hand():
    ids = {"un": 0, "##able": 1, "##a": 2, "##ble": 3, "##b": 4, "able": 5}
    assert pieces.cut("unable", ids, "##") == [0, 1]
    assert pieces.cut("##able", ids, "##") == [1]
    assert pieces.cut("##ab", ids, "##") == [2, 4]
    assert pieces.cut("table", ids, "##") == []
    table = torch.arange(12.0).reshape(6, 2)
    rows = pieces.rows_for(["able", "unable", "##ab", "table"], table, ids, "##")
    assert rows.tolist() == [[10, 11], [1, 2], [6, 7], [5, 6]]


def test_counts_by_hand():
    vocab = {"<unk>": 0, "the": 1, "river": 2, "bank": 3}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.enable_truncation(1)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert pieces.token_counts(tokenizer, ["the river the", "the sea"]).tolist() == [1, 3, 1, 0]
