"""A teacher that is given reads with its own tokenizer, so that a small model may learn from one of another family."""

import json

import numpy as np
import pytest
import torch
from tiny_world import WORDS, fast_tokenizer, write_rows
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    PreTrainedTokenizerFast,
)

from bertpress.encoder.tokenizers import cuts_alike
from bertpress.errors import ModelError, RecipeError
from bertpress.recipe import Recipe
from bertpress.runner import Request, press
from bertpress.tasks import resolve

FIXED = 5
"""Special tokens, which stay in front."""
BACKWARDS = [*WORDS[:FIXED], *WORDS[: FIXED - 1 : -1]]
FEWER = [*BACKWARDS[:-1], "zebra"]
TRAIN = {"epochs": 1, "max_steps": 6, "batch_size": 8, "precision": "float32"}
LABELS = {0: "bad", 1: "good"}


@pytest.fixture(scope="module")
def foreign(tiny_model, tmp_path_factory):
    """A function from a head to the folder of a teacher that numbers words the other way round, or has other ones."""

    def made(head, words=BACKWARDS):
        folder = tmp_path_factory.mktemp("foreign")
        fast_tokenizer(words).save_pretrained(folder)
        labels = LABELS if head is BertForSequenceClassification else {0: "B-thing", 1: "O"}
        names = {"id2label": labels, "label2id": {name: number for number, name in labels.items()}}
        with torch.random.fork_rng():
            torch.manual_seed(5)
            head(BertConfig.from_pretrained(tiny_model, initializer_range=0.5, **names)).save_pretrained(folder)
        return folder

    return made


def request(
    model, teacher, data, out, *, kind="text-classification", use=None, cache="logits", stage_teacher="original"
):
    use = use or [{"distill/logits": {"alpha": 1.0, "loss": "mse"}}]
    train = {**TRAIN, "cache_teacher": cache}
    stage = {"name": "learn", "use": use, "train": train, "teacher": str(stage_teacher)}
    recipe = Recipe.parse({"name": "r", "summary": "s", "cite": "c", "export": [], "stages": [stage]})
    columns = {"text_columns": ("text",), "label_column": "label"} if kind == "text-classification" else {}
    return Request(model, recipe, resolve(kind, **columns), out, data, teacher=teacher)


def test_its_answers_are_those_that_it_gives_to_its_own_ids(tiny_model, foreign, tmp_path):
    teacher, data = foreign(BertForSequenceClassification), write_rows(tmp_path / "data")
    made = press(request(tiny_model, teacher, data, tmp_path / "run"))
    own, model = fast_tokenizer(BACKWARDS), BertForSequenceClassification
    texts = [json.loads(line)["text"] for line in (data / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    with torch.no_grad():
        wanted = model.from_pretrained(teacher).eval()(**own(texts, padding=True, return_tensors="pt")).logits.numpy()
    (cache,) = (tmp_path / "run/cache").glob("*.f32")
    found = np.fromfile(cache, np.float32).reshape(-1, 2)
    assert np.allclose(sorted(map(tuple, found)), sorted(map(tuple, wanted)), atol=1e-5)
    assert made.baseline.tokenizer.get_vocab() == own.get_vocab()
    assert made.artifact.tokenizer.get_vocab() == fast_tokenizer().get_vocab()
    answers = [each["scores"]["good"] for each in made.baseline.predict(texts[:8])]
    assert np.allclose(answers, torch.tensor(wanted[:8]).softmax(-1)[:, 1], atol=1e-5)


@pytest.fixture
def twins(foreign, tmp_path):
    """Folders of a foreign teacher, and of the same one with the words numbered as ours are."""
    theirs = foreign(BertForSequenceClassification)
    same = BertForSequenceClassification.from_pretrained(theirs)
    table = same.bert.embeddings.word_embeddings.weight
    table.data = table.data[[BACKWARDS.index(word) for word in WORDS]]
    same.save_pretrained(tmp_path / "ours")
    fast_tokenizer().save_pretrained(tmp_path / "ours")
    return theirs, tmp_path / "ours"


def assert_same(*runs):
    first, second = (run.artifact.model.state_dict() for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("cache", ["logits", "all"])
def test_states_are_compared_where_both_cut_alike(tiny_model, twins, tmp_path, cache):
    data, use = write_rows(tmp_path / "data"), [{"distill/hidden": {}}, {"distill/logits": {"alpha": 1.0}}]
    runs = [
        press(request(tiny_model, teacher, data, tmp_path / name, use=use, cache=cache))
        for name, teacher in zip("ab", twins, strict=True)
    ]
    assert_same(*runs)
    assert len(list((tmp_path / "a/cache").glob("*.f32"))) == (cache == "all")  # else the states come live


def test_probes_are_refused_where_ids_differ(tiny_model, twins, tmp_path):
    data = write_rows(tmp_path / "data")
    with pytest.raises(RecipeError, match="distill/probes: probes learn from the ids of the student"):
        press(request(tiny_model, twins[0], data, tmp_path / "a", use=[{"distill/probes": {}}]))


def test_a_teacher_that_a_stage_names_reads_with_its_own_tokenizer(tiny_model, twins, tmp_path):
    data = write_rows(tmp_path / "data")
    runs = [
        press(request(tiny_model, twins[1], data, tmp_path / name, stage_teacher=teacher))
        for name, teacher in zip("ab", twins, strict=True)
    ]
    assert_same(*runs)


def test_a_teacher_that_a_stage_names_is_looked_at_before_anything_is_trained(tiny_model, twins, foreign, tmp_path):
    data, other = write_rows(tmp_path / "data"), foreign(BertForSequenceClassification, FEWER)
    with pytest.raises(RecipeError, match=rf"compares tokens with a teacher that reads others, by teacher={other}"):
        press(request(tiny_model, twins[1], data, tmp_path / "a", use=[{"distill/hidden": {}}], stage_teacher=other))
    with pytest.raises(ModelError, match="nowhere"):
        press(request(tiny_model, twins[1], data, tmp_path / "b", stage_teacher=tmp_path / "nowhere"))
    assert not list(tmp_path.glob("*/stages"))


@pytest.mark.parametrize(
    ("words", "cleaned", "alike"),
    [(WORDS, False, True), (BACKWARDS, False, True), (FEWER, False, False), (BACKWARDS, True, False)],
)
def test_two_tokenizers_cut_alike_by_their_pieces_and_rules(words, cleaned, alike):
    other = fast_tokenizer(words)
    if cleaned:
        other.backend_tokenizer.normalizer = BertNormalizer(lowercase=False)
    assert cuts_alike(fast_tokenizer(), other, pairs=True) is alike


def test_names_of_special_tokens_do_not_matter_and_the_number_between_two_texts_does():
    names = {"[PAD]": "<pad>", "[UNK]": "<unk>", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}
    backend = Tokenizer(WordPiece({names.get(word, word): i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.normalizer, backend.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    backend.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    special = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), names.values(), strict=True))
    other = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    other.add_tokens(AddedToken("<another>", special=True))  # MPNet has a second name for unknown pieces
    assert cuts_alike(fast_tokenizer(), other, pairs=False)
    assert not cuts_alike(fast_tokenizer(), other, pairs=True)


def test_what_compares_tokens_is_refused_where_they_are_others(tiny_model, foreign, tmp_path):
    teacher, data = foreign(BertForSequenceClassification, FEWER), write_rows(tmp_path / "data")
    with pytest.raises(RecipeError, match=r"r stage learn, distill/hidden: compares tokens with a teacher that reads"):
        press(request(tiny_model, teacher, data, tmp_path / "run", use=[{"distill/hidden": {}}]))


def test_tags_of_other_tokens_are_refused(tiny_model, foreign, tmp_path):
    kind = "token-classification"
    teacher, data = foreign(BertForTokenClassification, FEWER), write_rows(tmp_path / "data", kind)
    with pytest.raises(RecipeError, match=r"a teacher's answers for each token are of other tokens, by --teacher "):
        press(request(tiny_model, teacher, data, tmp_path / "run", kind=kind))
