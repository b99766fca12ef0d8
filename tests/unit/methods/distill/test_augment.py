"""What is added to the rows: nothing where nothing is changed, never with a label, alike for one seed."""

import json

import pytest
from sample_run import make_data, make_model, make_tokenizer

from bertpress.errors import DataError, RecipeError
from bertpress.methods.base import Context
from bertpress.methods.distill.augment import Augment, altered_columns, read_tags
from bertpress.tasks import encode, from_records, resolve
from bertpress.tasks.masking import IGNORED

TASK = resolve("text-classification", max_length=32).replace(labels=("bad", "good"))
PAIRS = resolve("mrpc").replace(labels=("no", "yes"))
ROWS = from_records([{"text": f"w{i} fine , w{i + 1} dull w{i + 2}", "label": i % 2, "id": i} for i in range(20)])
OFF = {"mask": 0, "replace": 0, "ngram": 0}


def context(task=TASK, seed=0, **fields):
    return Context(task=task, tokenizer=make_tokenizer(), seed=seed, **fields)


def added(method, rows=ROWS, **fields):
    """The rows behind the originals, which stay as they are."""
    found = method.training_rows(rows, context(**fields))
    assert found.subset(range(len(rows))).columns == rows.columns
    return found.subset(range(len(rows), len(found)))


@pytest.mark.parametrize("options", [OFF, {"strategy": "words", "probability": 0}])
def test_with_probability_0_the_rows_are_the_originals(options):
    teacher = make_model(TASK, make_tokenizer())
    assert len(added(Augment(**options), teacher=teacher)) == 0


@pytest.mark.parametrize("strategy", ["rules", "words"])
def test_copies_depend_on_the_seed_alone_and_have_no_label(strategy):
    teacher = make_model(TASK, make_tokenizer())
    method = Augment(strategy=strategy, copies=5)
    first, again, other = (added(method, teacher=teacher, seed=seed) for seed in (0, 0, 1))
    assert first.columns == again.columns != other.columns
    assert set(first.columns["label"]) == {None}
    assert 20 < len(first) <= 100
    assert not set(first.columns["text"]) & set(ROWS.columns["text"])
    assert len(set(zip(first.columns["id"], first.columns["text"], strict=True))) == len(first)
    encoded = encode(TASK, first, make_tokenizer(), training=True)
    assert {encoded[i]["labels"] for i in range(len(first))} == {IGNORED}


def test_only_so_many_rows_are_copied():
    few = added(Augment(copies=4, examples=3))
    assert set(few.columns["id"]) == set(ROWS.limit(3, 0).columns["id"])


def test_masks_are_read_as_masks():
    texts = added(Augment(mask=0.5, replace=0, ngram=0, copies=2)).columns["text"]
    tokenizer = make_tokenizer()
    for text in texts:
        assert text.count("[MASK]") == tokenizer(text)["input_ids"].count(tokenizer.mask_token_id) > 0
        assert " , " in text or ", " in text


def test_of_pairs_the_first_the_second_and_both_are_altered_by_turns():
    assert [altered_columns(("a", "b"), copy) for copy in range(4)] == [["a"], ["b"], ("a", "b"), ["a"]]
    assert altered_columns(("a",), 1) == ("a",)
    rows = from_records([{"sentence1": "w1 w2 w3 w4 w5 w6", "sentence2": "w7 w8 w9 w10 w11 w12", "label": 0}])
    found = added(Augment(mask=0.5, replace=0.5, copies=30), rows, task=PAIRS)
    same = [
        tuple(found.columns[name][i] == rows.columns[name][0] for name in ("sentence1", "sentence2"))
        for i in range(len(found))
    ]
    assert set(same) == {(False, True), (True, False), (False, False)}


def test_parts_of_speech_are_preserved(tmp_path):
    path = tmp_path / "tags.tsv"
    nouns = "".join(f"w{i}\tnoun\n" for i in range(40))
    path.write_text(f"fine\tadjective\ndull\tadjective\n{nouns}", encoding="utf-8")
    tags = read_tags(path)
    for text in added(Augment(mask=0, replace=0.5, ngram=0, copies=5, tags=str(path))).columns["text"]:
        kinds = [tags[word] for word in text.replace(",", "").split()]
        assert kinds == ["noun", "adjective", "noun", "adjective", "noun"]
    path.write_text("fine adjective\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"tags.tsv line 1: needs a word and its part of speech with a tab between"):
        read_tags(path)


def test_sentences_of_a_file(tmp_path):
    (tmp_path / "a.txt").write_text("w1 fine\nw2 dull\n", encoding="utf-8")
    found = added(Augment(strategy="file", texts=str(tmp_path / "a.txt")))
    assert found.columns == {"text": ["w1 fine", "w2 dull"], "label": [None, None], "id": [None, None]}
    pairs = from_records([{"sentence1": "a", "sentence2": "b", "label": 0}])
    (tmp_path / "b.jsonl").write_text(json.dumps({"sentence1": "x", "sentence2": "y"}), encoding="utf-8")
    found = added(Augment(strategy="file", texts=str(tmp_path / "b.jsonl")), pairs, task=PAIRS)
    assert found.columns == {"sentence1": ["x"], "sentence2": ["y"], "label": [None]}


def test_a_run_that_goes_on_reads_what_was_made(tmp_path):
    method = Augment(copies=2)
    first = added(method, folder=tmp_path / "stage")
    kept = tmp_path / "stage/augmented.jsonl"
    assert len(kept.read_text(encoding="utf-8").splitlines()) == len(first)
    kept.write_text(json.dumps([3, {"text": "as it was"}]) + "\n", encoding="utf-8")
    again = added(method, folder=tmp_path / "stage")
    assert again.columns == {"text": ["as it was"], "label": [None], "id": [3]}


def test_words_to_tag_stay_a_list():
    task, data, _, tokenizer = make_data("token-classification", count=6)
    found = added(Augment(copies=3, mask=0.3), data.rows, task=task)
    assert all(isinstance(words, list) for words in found.columns["tokens"])
    item = encode(task, found, tokenizer, training=True)[0]
    assert set(item["labels"].tolist()) == {IGNORED}


def test_texts_without_labels_can_be_altered_too():
    rows = from_records([{"text": "w1 w2 w3 w4"}])
    assert added(Augment(copies=3), rows, unlabelled=True).columns.keys() == {"text"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "file"}, "strategy=file needs texts, the name of a file"),
        ({"strategy": "file", "texts": "none.txt"}, "none.txt: no such file"),
        ({"tags": "none.tsv"}, "none.tsv: no such file"),
    ],
)
def test_what_cannot_be_read_is_refused(options, message):
    with pytest.raises(RecipeError, match=f"^distill/augment: {message}$"):
        Augment(**options).attach(None, context())


def test_a_plain_file_has_no_columns_for_pairs(tmp_path):
    file = tmp_path / "more.txt"
    file.write_text("one\ntwo\n", encoding="utf-8")
    method = Augment(strategy="file", texts=str(file))
    method.attach(None, context())
    words = "more.txt: for the task mrpc its name must end in .jsonl, .*, with the columns .*, .*$"
    with pytest.raises(RecipeError, match=f"^distill/augment: .*{words}"):
        method.attach(None, context(PAIRS))


def test_a_tokenizer_without_a_mask_cannot_mask():
    ctx = Context(task=TASK, tokenizer=None, seed=0)
    with pytest.raises(RecipeError, match=r"mask=0.1 needs a tokenizer with a mask token; set mask=0$"):
        Augment().attach(None, ctx)
    assert Augment(mask=0).attach("model", ctx) == "model"
