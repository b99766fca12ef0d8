"""One stage with one method, run by the real runner on a tiny model; done once a method and looked at by every test."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from bertpress import artifact, tasks
from bertpress.encoder.imports import load_pretrained
from bertpress.errors import RecipeError
from bertpress.methods.base import Method, Need, Trait
from bertpress.methods.registry import find
from bertpress.recipe import Stage
from bertpress.runfolder import RunFolder
from bertpress.stages import Data, Run, run_stage
from bertpress.teacher import labels_of
from bertpress.training import TrainSettings

HERE = Path(__file__).parent
QUICK = TrainSettings(epochs=1, batch_size=8, learning_rate=1e-3, precision="float32", checkpoint_seconds=3600)


class Bench(NamedTuple):
    """Data, tokenizer and a teacher that every method gets."""

    data: Data
    tokenizer: Any
    teacher: Any


class Done(NamedTuple):
    """What a method made of the teacher."""

    method: Method
    teacher: Any
    before: dict[str, torch.Tensor]
    model: Any
    folder: Any


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """One process runs all tests of a method or recipe, so that it is run once."""
    for item in items:
        name = item.callspec.params.get("name") if hasattr(item, "callspec") else None
        if name and HERE in item.path.parents:
            item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture(scope="session")
def bench(tiny_model, tiny_rows):
    from transformers import AutoTokenizer

    kind = "text-classification"
    train = tasks.from_records(tiny_rows(kind, 24, 1), split="train")
    validation = tasks.from_records(tiny_rows(kind, 12, 2), split="validation")
    task = tasks.with_labels(tasks.resolve(kind, max_length=32), train)
    loaded = load_pretrained(tiny_model, task.head(), **labels_of(task))
    tokenizer = AutoTokenizer.from_pretrained(loaded.tokenizer_source)
    return Bench(Data(task, train, validation), tokenizer, loaded.model)


@pytest.fixture(scope="session")
def pressed_on(tmp_path_factory):
    """A function from a bench and a method to the model that one stage with it leaves."""

    def run(bench, name, method, seed=0):
        folder = RunFolder.open(tmp_path_factory.mktemp("run") / "run", {"seed": seed}, resume=False)
        shared = Run(folder, bench.data, bench.tokenizer, seed, lambda line: None, bench.teacher)
        trains = Need.TRAINING in method.requires
        data = "unlabelled" if Need.UNLABELLED in method.requires else "task"
        stage = Stage(name="only", methods=((name, method),), train=QUICK if trains else None, data=data)
        before = {key: value.clone() for key, value in bench.teacher.state_dict().items()}
        model, _ = run_stage(shared, stage, 1, bench.teacher, bench.teacher)
        return Done(method, bench.teacher, before, model, folder / "stages/01-only/model")

    return run


@pytest.fixture(scope="session")
def pressed_unless_refused(pressed_on):
    """The same with a method's defaults; a refusal skips the test, unless the method is one that must work."""

    def run(bench, name, must=()):
        try:
            return pressed_on(bench, name, find(name)())
        except RecipeError as refusal:
            assert name not in must
            pytest.skip(str(refusal))

    return run


@pytest.fixture(scope="session")
def press(bench, pressed_on):
    """The same on the bench that every method gets."""
    return partial(pressed_on, bench)


@pytest.fixture(scope="session")
def pressed(press):
    """A function from a method's name to what its defaults leave; each is run once."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = press(name, find(name)())
        return made[name]

    return of


@pytest.fixture
def batch(name, bench, pressed):
    """Padded rows of unequal length, read by the tokenizer of what the method leaves."""
    renews = Trait.VOCABULARY in find(name).provides
    tokenizer = artifact.load(pressed(name).folder).tokenizer if renews else bench.tokenizer
    encoded = tasks.encode(bench.data.task, bench.data.validation, tokenizer, training=False)
    full = tasks.Collate(tokenizer.pad_token_id)([encoded[i] for i in range(6)])
    return {name: full[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
