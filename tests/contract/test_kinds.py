"""Every method on tasks of every kind: it works, or it is refused in one line that names it."""

import pytest
from transformers import AutoTokenizer

from bertpress import tasks
from bertpress.data import Data
from bertpress.encoder.imports import load_pretrained
from bertpress.errors import RecipeError
from bertpress.methods.registry import find, names
from bertpress.teacher import labels_of

# the sides of a sentence pair are two sequences with one label: what takes them for two examples shows there
UNLIKE = "sentence-similarity"
OTHERS = ("token-classification", "question-answering", "text-regression", "text-pair-classification")
KINDS = [UNLIKE, *(pytest.param(kind, marks=pytest.mark.slow) for kind in OTHERS)]


@pytest.fixture(scope="session")
def bench_of(bench, tiny_model, tiny_rows):
    """A function from a kind of task to a bench with a model for it."""
    made = {}

    def of(kind):
        if kind not in made:
            train, validation = (
                tasks.from_records(tiny_rows(kind, count, seed), split=split)
                for count, seed, split in ((24, 1, "train"), (12, 2, "validation"))
            )
            task = tasks.with_labels(tasks.resolve(kind, max_length=32), train)
            loaded = load_pretrained(tiny_model, task.head(), **labels_of(task))
            tokenizer = AutoTokenizer.from_pretrained(loaded.tokenizer_source)
            made[kind] = bench._replace(data=Data(task, train, validation), tokenizer=tokenizer, teacher=loaded.model)
        return made[kind]

    return of


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", names())
def test_it_works_or_says_why_not(name, kind, bench_of, pressed_on):
    done, refusal = None, ""
    try:
        done = pressed_on(bench_of(kind), name, find(name)())
    except RecipeError as error:
        refusal = str(error)
    if done is None:
        assert refusal.startswith(f"{name}: ")
        assert len(refusal.splitlines()) == 1
    else:
        assert all(bool(weight.isfinite().all()) for weight in done.model.state_dict().values())
