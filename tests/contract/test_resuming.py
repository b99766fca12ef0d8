"""Training that was killed in the middle goes on and ends with the same bits."""

from typing import ClassVar

import pytest
from transformers import TrainerCallback

from bertpress import tasks
from bertpress.encoder.model import build_model
from bertpress.methods.base import Method, Need
from bertpress.methods.registry import find
from bertpress.other_tasks import Asked, Other
from bertpress.recipe import Stage
from bertpress.runfolder import RunFolder
from bertpress.stages import Run, run_stage
from bertpress.training import TrainSettings

TRAIN = TrainSettings(
    epochs=4, batch_size=8, learning_rate=1e-3, precision="float32", checkpoint_seconds=0, cache_teacher="all"
)


class Killed(Exception):
    """What ends a run here."""


class Killer(TrainerCallback):
    """Ends the run before one of its steps."""

    at: ClassVar[int | None] = None

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == Killer.at:
            raise Killed


class Dying(Method):
    """Bring the killer along."""

    def callbacks(self, ctx):
        return [Killer()]


NARROW = {"student/transformer": {"layers": 1, "hidden_size": 16, "multiple_of": 8}}


@pytest.mark.parametrize(
    "use",
    [
        {"prune/magnitude": {"every": 2}},
        {"prune/lottery_ticket": {"head": "fresh"}},
        {"prune/movement": {"keep": 0.4}},
        {"prune/movement": {"variant": "soft", "penalty": 1000.0, "threshold": 0.45}},
        {"prune/rpp": {"every": 2}},
        {"prune/cofi": {"learning_rate": 0.5}},
        {"prune/obert": {"every": 2, "examples": 8, "block": 8}},
        {**NARROW, "distill/embeddings": {}, "distill/hidden": {"project": "teacher"}, "distill/attention": {}},
        {**NARROW, "distill/emd": {"weight": 1.0}},
        {**NARROW, "distill/codir": {"weight": 1.0}},
        {**NARROW, "distill/projection": {"weight": 1e-3}},
        {**NARROW, "distill/probes": {"examples": 8}},
        {"student/adabert": {"hidden_size": 16, "nodes": 2}, "distill/probes": {"examples": 8}},
        {"distill/mlm": {}},
        {
            "factorize/svd": {"rank": 8, "weighted": True, "examples": 8},
            "prune/magnitude": {"every": 2},
            "distill/features": {},
        },
        {"student/mobilebert": {"examples": 8}, "distill/progressive": {"lower_rate": 0.1}},
        {**NARROW, "distill/wide_narrow": {}},
        {"embed/vocabulary": {"train": 60}, "distill/logits": {}},
        {"embed/compositional_codes": {"codebooks": 4, "steps": 20}},
        {"attention/span": {"penalty": 1.0}},
        {"prune/ziplm": {"multiple_of": 8, "examples": 8, "searched": 8, "trials": 2}, "distill/logits": {}},
    ],
    ids=lambda use: " ".join(use),
)
def test_killed_and_gone_on_it_ends_with_the_same_bits(use, bench, tmp_path, monkeypatch):
    methods = [(name, find(name)(**options)) for name, options in use.items()]
    data = "unlabelled" if any(Need.UNLABELLED in method.requires for _, method in methods) else "task"
    ends_with_the_same_bits(bench, tmp_path, monkeypatch, methods, data=data)


def test_several_tasks_end_with_the_same_bits(bench, tiny_rows, tmp_path, monkeypatch):
    rows = tasks.from_records(tiny_rows("text-regression", 20, 3))
    task = tasks.with_labels(tasks.resolve("text-regression", max_length=32), rows)
    teacher = build_model(bench.teacher.blueprint.replace(head=task.head()))
    others = {Asked("text-regression", "folder"): Other(task, rows, teacher)}
    methods = [("distill/logits", find("distill/logits")(alpha=1.0, loss="mse"))]
    asks = {"text-regression": "folder"}
    ends_with_the_same_bits(bench, tmp_path, monkeypatch, methods, others=others, tasks=asks)


def ends_with_the_same_bits(bench, tmp_path, monkeypatch, methods, *, others=None, **fields):
    """Run a stage undisturbed, and killed twice."""
    stage = Stage(name="only", methods=(*methods, ("test/dying", Dying())), train=TRAIN, **fields)

    def made(place, *, resume):
        folder = RunFolder.open(tmp_path / place, {}, resume=resume)
        run = Run(folder, bench.data, bench.tokenizer, 0, lambda line: None, bench.teacher, others=others or {})
        run_stage(run, stage, 1, bench.teacher, bench.teacher)
        return (tmp_path / place / "stages/01-only/model/model.safetensors").read_bytes()

    expected = made("whole", resume=False)
    for at in (3, 7):
        monkeypatch.setattr(Killer, "at", at)
        with pytest.raises(Killed):
            made("killed", resume=at > 3)
    monkeypatch.setattr(Killer, "at", None)
    assert made("killed", resume=True) == expected
