"""A teacher that is given reads with its own tokenizer, so that a small model may learn from one of another family."""

import json

import numpy as np
import pytest
import torch
from tiny_world import WORDS, fast_tokenizer, write_rows
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

from bertpress.errors import RecipeError
from bertpress.recipe import Recipe
from bertpress.runner import Request, press
from bertpress.tasks import resolve

FIXED = 5
"""Special tokens, which stay in front."""
TRAIN = {"epochs": 1, "max_steps": 6, "batch_size": 8, "precision": "float32", "cache_teacher": "logits"}
LABELS = {0: "bad", 1: "good"}


@pytest.fixture(scope="module")
def foreign(tiny_model, tmp_path_factory):
    """A function from a head to the folder of a teacher that numbers the same words the other way round."""

    def made(head):
        folder = tmp_path_factory.mktemp("foreign")
        fast_tokenizer([*WORDS[:FIXED], *WORDS[: FIXED - 1 : -1]]).save_pretrained(folder)
        labels = LABELS if head is BertForSequenceClassification else {0: "B-thing", 1: "O"}
        names = {"id2label": labels, "label2id": {name: number for number, name in labels.items()}}
        with torch.random.fork_rng():
            torch.manual_seed(5)
            head(BertConfig.from_pretrained(tiny_model, initializer_range=0.5, **names)).save_pretrained(folder)
        return folder

    return made


def request(model, teacher, data, out, *, kind="text-classification", use=None):
    stage = {"name": "learn", "use": use or [{"distill/logits": {"alpha": 1.0, "loss": "mse"}}], "train": TRAIN}
    recipe = Recipe.parse({"name": "r", "summary": "s", "cite": "c", "export": [], "stages": [stage]})
    columns = {"text_columns": ("text",), "label_column": "label"} if kind == "text-classification" else {}
    return Request(model, recipe, resolve(kind, **columns), out, data, teacher=teacher)


def test_its_answers_are_those_that_it_gives_to_its_own_ids(tiny_model, foreign, tmp_path):
    teacher, data = foreign(BertForSequenceClassification), write_rows(tmp_path / "data")
    made = press(request(tiny_model, teacher, data, tmp_path / "run"))
    own, model = fast_tokenizer([*WORDS[:FIXED], *WORDS[: FIXED - 1 : -1]]), BertForSequenceClassification
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


def test_what_compares_tokens_is_refused(tiny_model, foreign, tmp_path):
    teacher, data = foreign(BertForSequenceClassification), write_rows(tmp_path / "data")
    with pytest.raises(RecipeError, match=r"r stage learn, distill/hidden: compares tokens with a teacher that reads"):
        press(request(tiny_model, teacher, data, tmp_path / "run", use=[{"distill/hidden": {}}]))


def test_tags_of_other_tokens_are_refused(tiny_model, foreign, tmp_path):
    kind = "token-classification"
    teacher, data = foreign(BertForTokenClassification), write_rows(tmp_path / "data", kind)
    with pytest.raises(RecipeError, match=r"a teacher's answers for each token are of other tokens, by --teacher "):
        press(request(tiny_model, teacher, data, tmp_path / "run", kind=kind))
