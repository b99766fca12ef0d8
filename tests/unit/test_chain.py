"""A chain of students: each starts from the one before, learns the same answers, and ends at the floor."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from sample_run import make_data, make_model

from bertpress import artifact, stages
from bertpress.methods.base import Method
from bertpress.recipe import Recipe, Stage, Until
from bertpress.runfolder import RunFolder
from bertpress.stages import Data, Run, run_stage
from bertpress.training import Teacher, TrainSettings, collate_for

TASK, TRAIN, VALIDATION, TOKENIZER = make_data(count=48)
SETTINGS = TrainSettings(epochs=1, batch_size=16, learning_rate=1e-2, precision="float32", checkpoint_seconds=3600)


class Begin(Method):
    """Remembers the model as each link begins."""

    cite: ClassVar[str] = "a test"
    seen: ClassVar[list] = []

    def attach(self, model, ctx):
        self.seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return model


def link(**fields):
    """A link of the recipe, with a look at its beginning."""
    use = [(name, method) for name, method in Recipe.load("sdsk2bert").stages[1].methods]
    return Stage(name="chain", methods=(*use, ("test/begin", Begin())), train=SETTINGS, **fields)


@pytest.fixture
def run(tmp_path):
    folder = RunFolder.open(tmp_path / "run", {}, resume=False)
    teacher = make_model(TASK, TOKENIZER, seed=7, layers=6)
    Begin.seen.clear()
    return Run(folder, Data(TASK, TRAIN.rows, VALIDATION.rows), TOKENIZER, 0, lambda line: None, teacher)


def test_each_link_begins_with_the_lower_layers_and_the_head_of_the_one_before(run):
    first = make_model(TASK, TOKENIZER, seed=1, layers=6)
    last, report = run_stage(run, link(repeat=4), 1, first, first)
    rounds = [artifact.load(run.folder / f"stages/01-chain/round-{i:02d}/model").model for i in (1, 2, 3, 4)]
    assert [len(model.blueprint.layers) for model in rounds] == [5, 4, 3, 2]
    assert len(report["rounds"]) == 4
    assert len(last.blueprint.layers) == 2
    for parent, start, after in zip([first, *rounds], Begin.seen, rounds, strict=False):
        theirs = parent.state_dict()
        assert start.keys() == after.state_dict().keys() < theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in start.items())
        assert not torch.equal(start["head.classifier.weight"], after.head.classifier.weight)


def test_all_links_read_the_same_answers_from_one_file_and_they_are_the_live_ones(run):
    first = make_model(TASK, TOKENIZER, seed=1, layers=6)
    run_stage(run, link(repeat=3), 1, first, first)
    (file,) = (run.folder / "cache").glob("*.f32")
    cached, live = Teacher(run.teacher, cache=run.folder / "cache"), Teacher(run.teacher)
    for teacher in (cached, live):
        teacher.place(torch.device("cpu"), "float32")
    before = file.stat().st_mtime_ns
    collate = collate_for(TOKENIZER)
    assert cached.prepare(TRAIN, range(len(TRAIN)), collate)
    assert file.stat().st_mtime_ns == before
    for rows in np.random.default_rng(0).permutation(len(TRAIN)).reshape(-1, 6).tolist():
        batch = collate([TRAIN[row] for row in rows])
        torch.testing.assert_close(cached(batch).logits, live(batch).logits, atol=1e-6, rtol=0)


def test_the_chain_ends_before_the_link_that_loses_too_much(run, monkeypatch):
    drops = iter([0.5, 2.9, 3.1, 0.0])
    monkeypatch.setattr(stages, "_drop_on_held_out", lambda run, model, tokenizer: next(drops))
    first = make_model(TASK, TOKENIZER, seed=1, layers=6)
    last, report = run_stage(run, link(repeat=5, until=Until(drop=3.0)), 1, first, first)
    assert len(last.blueprint.layers) == 4
    assert [turn["drop"] for turn in report["rounds"]] == [0.5, 2.9]
    assert next(drops) == 0.0  # the fourth link was never tried
